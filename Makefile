# SPDX-License-Identifier: MIT
# Tidewire: `make run` and `make test` are all a fresh machine needs; `make help` lists the rest.

VERSION   := 0.1.0
PREFIX    ?= /usr/local
CC        := $(if $(filter default,$(origin CC)),gcc,$(CC))
FUZZ_CC   ?= clang-14
PYTHON    ?= /usr/bin/python3
RUN       ?= lua/examples/talk-back.lua
T         ?= 120

# release: what ships. check: unit tests and fuzz replays, always under ASan and UBSan.
# tuned: what ships, in two steps (make tuned). asan, tsan: the whole server for the end-to-end suite.
# cover: unit tests and server that count lines.
V     ?= release
BUILD := build$(if $(filter-out release,$(V)),/$(V))

WARN  := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla -Werror
CPP   := -D_GNU_SOURCE -DTIDEWIRE_VERSION='"$(VERSION)"' -Isrc -isystem /usr/include/lua5.4 -isystem /usr/share/include/llhttp \
         -DLLHTTP_STRICT_MODE=1
BASE  := -std=c11 -g -pthread -fno-omit-frame-pointer
SAN   := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
FLAGS_release := -O2 -flto=auto -fPIE -fstack-protector-strong -fcf-protection -D_FORTIFY_SOURCE=2
LINK_release  := -O2 -flto=auto -pie -Wl,-z,relro,-z,now -Wl,--as-needed
FLAGS_tuned   := $(FLAGS_release)
LINK_tuned    := $(LINK_release)
FLAGS_check   := $(SAN)
LINK_check    := $(SAN)
FLAGS_asan    := $(SAN)
LINK_asan     := $(SAN)
FLAGS_tsan    := -O1 -fsanitize=thread
LINK_tsan     := -fsanitize=thread
FLAGS_cover   := -O0 --coverage
LINK_cover    := --coverage
FLAGS_debug   := -O0
LINK_debug    :=
FLAGS_fuzz    := $(SAN) -fsanitize=fuzzer-no-link
LINK_fuzz     := $(SAN) -fsanitize=fuzzer
ifeq ($(V),fuzz)
CC := $(FUZZ_CC)
endif
LIBS  := -lev -lwslay -llua5.4 -ljansson -lz -lcurl -lssl -lcrypto -lm -ldl

SRC   := $(sort $(wildcard src/*.c src/*/*.c))
OBJ   := $(SRC:src/%.c=$(BUILD)/obj/%.o)
LLHTTP := $(BUILD)/obj/llhttp/api.o $(BUILD)/obj/llhttp/http.o $(BUILD)/obj/llhttp/llhttp.o
LIBRARY := $(BUILD)/obj/library.o
LIBOBJ := $(filter-out $(BUILD)/obj/main.o,$(OBJ)) $(LLHTTP) $(LIBRARY)
UNIT  := $(patsubst tests/unit/%.c,%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZ  := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

.PHONY: all help run test check-tools deps lint unit conformance asan tsan fuzz cover bench tuned install clean format binary checks checks-unit checks-fuzz
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

all: deps ## build build/tidewire
	@$(MAKE) --no-print-directory binary

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo; echo "run takes RUN=script.lua ARGS='--listen 127.0.0.1:9000'; fuzz takes F=name T=seconds"

run: deps ## install what is missing, build, serve lua/examples/talk-back.lua on 127.0.0.1:8080
	@$(MAKE) --no-print-directory binary
	@exec build/tidewire run $(RUN) $(ARGS)

test: ## install what is missing, build, run everything; ends with `N passed, N failed`
	@scripts/deps test
	@$(PYTHON) tests/run.py

deps: ## install what building needs (scripts/deps test: what testing needs)
	@scripts/deps build

binary: $(BUILD)/tidewire
checks: checks-unit checks-fuzz
checks-unit: $(addprefix $(BUILD)/unit/,$(UNIT))
checks-fuzz: $(addprefix $(BUILD)/fuzz/,$(FUZZ))

lint: ## style and structure checks
	@$(PYTHON) scripts/lint.py

unit: ## C unit tests and fuzz corpus replays, under ASan and UBSan
	@scripts/deps test
	@$(PYTHON) tests/run.py unit fuzz

conformance: ## RFC 6455 and RFC 7692 case by case, the long form, with a table by section
	@scripts/deps test
	@$(MAKE) --no-print-directory binary
	@TIDEWIRE_CONFORMANCE=long $(PYTHON) -m pytest -q -n auto -p no:cacheprovider tests/conformance

asan: ## the whole suite with the server under AddressSanitizer and UBSan
	@scripts/deps test
	@$(PYTHON) tests/run.py --server asan

tsan: ## the end-to-end suite with the server under ThreadSanitizer
	@scripts/deps test
	@$(PYTHON) tests/run.py --server tsan e2e

fuzz: ## fuzz one target: make fuzz F=head T=60 (all of them without F)
	@scripts/deps fuzz
	@$(MAKE) --no-print-directory V=fuzz checks-fuzz
	@for f in $(if $(F),fuzz_$(F),$(FUZZ)); do \
	  mkdir -p build/corpus/$$f; echo "== $$f for $(T) s"; \
	  build/fuzz/fuzz/$$f -max_total_time=$(T) -print_final_stats=1 -verbosity=0 -timeout=10 -artifact_prefix=build/corpus/ \
	    build/corpus/$$f $$(test -d tests/fuzz/corpus/$${f#fuzz_} && echo tests/fuzz/corpus/$${f#fuzz_}) || exit 1; \
	done

cover: ## line coverage of the unit and end-to-end tests
	@scripts/deps test
	@$(PYTHON) tests/run.py --cover

bench: ## everything beside its peers, into tests/bench/RESULTS.md: make bench ARGS='echo fan --rounds 3'
	@scripts/deps bench
	@$(MAKE) --no-print-directory binary tuned bench-tools bench-peers
	@$(PYTHON) tests/bench/bench.py $(ARGS)

tuned: ## build/tuned/tidewire: laid out by a profile of itself under load, some percent faster; takes two minutes
	@scripts/deps build
	@$(MAKE) --no-print-directory V=tuned EXTRA='-fprofile-generate -fprofile-update=prefer-atomic' binary
	@$(MAKE) --no-print-directory bench-tools
	@find build/tuned -name '*.gcda' -delete
	@scripts/train build/tuned/tidewire
	@$(MAKE) --no-print-directory V=tuned EXTRA='-fprofile-use -fprofile-partial-training -Wno-missing-profile' binary

format: ## rewrite the C files in the committed style
	@clang-format -i $$(git ls-files -co --exclude-standard '*.c' '*.h')

install: binary ## PREFIX=/usr/local DESTDIR=
	install -D -m 755 build/tidewire $(DESTDIR)$(PREFIX)/bin/tidewire
	install -D -m 644 lua/types/tidewire.lua $(DESTDIR)$(PREFIX)/share/tidewire/types/tidewire.lua
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/tidewire/examples lua/examples/*.lua
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/tidewire lua/*.md
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system scripts/tidewire.service scripts/tidewire.socket
	sed -i 's,/usr/local/,$(PREFIX)/,' $(DESTDIR)$(PREFIX)/lib/systemd/system/tidewire.service

clean: ## remove build/
	rm -rf build

# ---- rules ----
# The flags are a prerequisite, so that a changed flag rebuilds what it touches.
FLAGS := $(CC) $(WARN) $(BASE) $(FLAGS_$(V)) $(CPP) $(LINK_$(V)) $(LIBS) $(EXTRA)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D); echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@
.PHONY: FORCE
FORCE:

$(BUILD)/obj/%.o: src/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  cc      $<"
	@$(CC) $(BASE) $(WARN) $(FLAGS_$(V)) $(EXTRA) $(CPP) -MMD -MP -c -o $@ $<

# Debian ships llhttp as C source, not as a library; its warnings are not ours.
$(BUILD)/obj/llhttp/%.o: /usr/share/llhttp/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  cc      llhttp/$*.c"
	@$(CC) $(BASE) -w $(FLAGS_$(V)) $(EXTRA) $(CPP) -c -o $@ $<

# lua/tidewire/ is part of the binary.
$(BUILD)/obj/library.c: $(sort $(wildcard lua/tidewire/*.lua)) scripts/embed
	@mkdir -p $(@D)
	@scripts/embed $(filter %.lua,$^) > $@
$(LIBRARY): $(BUILD)/obj/library.c $(BUILD)/flags
	@$(CC) $(BASE) $(WARN) $(FLAGS_$(V)) $(EXTRA) $(CPP) -c -o $@ $<

$(BUILD)/tidewire: $(OBJ) $(LLHTTP) $(LIBRARY)
	@echo "  link    $@"
	@$(CC) $(BASE) $(LINK_$(V)) $(EXTRA) -o $@ $^ $(LIBS)

$(BUILD)/unit/%: tests/unit/%.c $(LIBOBJ) $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  test    $*"
	@$(CC) $(BASE) $(WARN) $(FLAGS_$(V)) $(CPP) -MMD -MP -o $@ $< $(LIBOBJ) $(LINK_$(V)) $(LIBS) -lcmocka

# libFuzzer brings its own main(); elsewhere replay.c runs the corpus through the target.
REPLAY := $(if $(filter-out fuzz,$(V)),$(BUILD)/fuzz/replay.o)
$(BUILD)/fuzz/replay.o: tests/fuzz/replay.c $(BUILD)/flags
	@mkdir -p $(@D)
	@$(CC) $(BASE) $(WARN) $(FLAGS_$(V)) $(CPP) -c -o $@ $<

$(BUILD)/fuzz/%: tests/fuzz/%.c $(REPLAY) $(LIBOBJ) $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  fuzz    $*"
	@$(CC) $(BASE) $(WARN) $(FLAGS_$(V)) $(CPP) -MMD -MP -o $@ $< $(REPLAY) $(LIBOBJ) $(LINK_$(V)) $(LIBS)

# Built as the server is, so that they can be compared with it.
.PHONY: bench-tools
bench-tools: $(addprefix $(BUILD)/bench/,load fan connect floor packed reload) ## build the load generators and the floor of tests/bench
$(addprefix $(BUILD)/bench/,connect fan load packed reload): tests/bench/client.c tests/bench/client.h tests/bench/wire.c tests/bench/wire.h
$(addprefix $(BUILD)/bench/,connect fan load packed reload): BENCH_LIBS := -lssl -lcrypto
$(addprefix $(BUILD)/bench/,connect load reload): tests/bench/hist.c tests/bench/hist.h
$(BUILD)/bench/%: tests/bench/%.c src/base/list.h $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  bench   $*"
	@$(CC) $(BASE) $(WARN) $(FLAGS_$(V)) $(EXTRA) $(CPP) -o $@ $(filter %.c,$^) $(LINK_$(V)) $(or $(BENCH_LIBS),-lev)

# Servers of other libraries, where these are here. Debian's Go packages are no modules.
.PHONY: bench-peers
GORILLA := src/github.com/gorilla/websocket
bench-peers: $(if $(wildcard /usr/include/libwebsockets.h),$(BUILD)/bench/lws_echo) \
  $(if $(wildcard /usr/share/gocode/$(GORILLA)),build/peers/gorilla_echo)
$(BUILD)/bench/lws_echo: BENCH_LIBS := -lwebsockets
build/peers/gorilla_echo: tests/bench/gorilla_echo.go
	@mkdir -p $(@D)
	@echo "  go      $<"
	@GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$(CURDIR)/build/peers/go-cache go build -o $@ $<

-include $(OBJ:.o=.d) $(wildcard $(BUILD)/unit/*.d $(BUILD)/fuzz/*.d)
