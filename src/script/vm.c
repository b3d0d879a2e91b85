/* SPDX-License-Identifier: MIT
 * One Lua state: memory limit, libraries, the script's load, its routes. */
#include "script/vm.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "script/policy.h"

/* A thread's extra space holds its VM's address (new threads inherit it from the main one) and its marks in
 * the lowest bits. */
#define VM_MARKS ((uintptr_t)(VM_MARK_SCHED | VM_MARK_CUT))

struct vm *vm_of(lua_State *L)
{
    return (struct vm *)(*(uintptr_t *)lua_getextraspace(L) & ~VM_MARKS);
}

void vm_set_mark(lua_State *L, enum vm_mark mark)
{
    *(uintptr_t *)lua_getextraspace(L) |= mark;
}

bool vm_has_mark(lua_State *L, enum vm_mark mark)
{
    return (*(uintptr_t *)lua_getextraspace(L) & mark) != 0;
}

/* ---- memory ---- */

static void *vm_alloc(void *user, void *block, size_t old, size_t new)
{
    struct vm *vm = user;
    if (block == NULL)
        old = 0; /* `old` is then the kind of object */
    if (new == 0) {
        vm->memory -= old;
        free(block);
        return NULL;
    }
    if (new > old &&new - old > vm->memory_limit - vm->memory)
        return NULL;
    void *moved = realloc(block, new);
    if (moved == NULL && new > old)
        return NULL;
    vm->memory += new - old;
    return moved != NULL ? moved : block; /* Lua relies on it that shrinking works */
}

/* An error outside every protected call is a defect of the bindings; Lua aborts the process after this. */
static int vm_on_panic(lua_State *L)
{
    const char *message = lua_tostring(L, -1);
    log_error("defect: unprotected error in Lua: %s", message != NULL ? message : "?");
    return 0;
}

/* ---- routes ---- */

static void vm_reserve_handler(lua_State *L, struct vm *vm, size_t number)
{
    if (number % 64 == 0) {
        int *grown = realloc(vm->handlers, (number + 64) * sizeof *grown);
        if (grown == NULL)
            luaL_error(L, "out of memory");
        vm->handlers = grown;
    }
    vm->handlers[number] = LUA_NOREF;
}

void vm_add_route(lua_State *L, enum router_method method, int pattern_index, int function_index)
{
    struct vm *vm = vm_of(L);
    size_t len;
    const char *pattern = luaL_checklstring(L, pattern_index, &len);
    lua_Debug ar;
    char where[256] = "?";
    if (lua_getstack(L, 1, &ar) && lua_getinfo(L, "Sl", &ar))
        snprintf(where, sizeof where, "%s:%d", ar.short_src, ar.currentline);
    struct err e;
    if (router_count(vm->router) == VM_ROUTES)
        luaL_error(L, "more than %d routes", VM_ROUTES);
    vm_reserve_handler(L, vm, router_count(vm->router));
    int number = router_add(vm->router, method, pattern, len, where, &e);
    if (number < 0) {
        lua_pushstring(L, e.text);
        lua_error(L);
    }
    lua_pushvalue(L, function_index);
    vm->handlers[number] = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* ---- loading ---- */

struct vm_start {
    struct vm *vm;
    const char *path;
    struct snapshot_file file;
};

/* The folder of `path`, without the slash; "." when it has none. */
static void vm_push_folder(lua_State *L, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        lua_pushliteral(L, ".");
    else
        lua_pushlstring(L, path, slash > path ? (size_t)(slash - path) : 1);
}

static int vm_open_body(lua_State *L)
{
    const struct vm_start *start = sched_take_arg(L);
    vm_push_folder(L, start->path);
    policy_open(L, lua_tostring(L, -1));
    start->vm->bindings->open(L);
    return 0;
}

static int vm_run_body(lua_State *L)
{
    const struct vm_start *start = sched_take_arg(L);
    if (policy_load_text(L, start->file.data, start->file.len, start->path) != LUA_OK)
        return lua_error(L);
    lua_call(L, 0, 0);
    return 0;
}

static int vm_start(struct vm *vm, const char *path, struct err *e)
{
    struct vm_start start = {.vm = vm, .path = path};
    if (snapshot_read(vm->snapshot, path, &start.file) < 0)
        return err_set(e, "cannot read %s: %s", path, start.file.why);
    if (sched_setup(vm->L, vm_open_body, &start, e) < 0)
        return -1;
    vm->loading = true;
    int rc = sched_load(vm, vm_run_body, &start, e);
    vm->loading = false;
    return rc;
}

struct vm *vm_load(const struct vm_options *o, const char *path, struct err *e)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (vm == NULL) {
        err_set(e, "out of memory");
        return NULL;
    }
    vm->memory_limit = (size_t)o->config->vm_memory;
    vm->bindings = o->bindings;
    vm->budget = o->budget;
    vm->worker = o->worker;
    vm->workers = o->workers;
    vm->generation = o->generation;
    vm->about.worker = o->worker;
    vm->snapshot = snapshot_ref(o->snapshot);
    vm->router = router_create();
    vm->L = lua_newstate(vm_alloc, vm);
    if (vm->router == NULL || vm->L == NULL)
        err_set(e, "out of memory");
    else {
        *(struct vm **)lua_getextraspace(vm->L) = vm;
        lua_atpanic(vm->L, vm_on_panic);
        if (vm_start(vm, path, e) == 0)
            return vm;
    }
    vm_destroy(vm);
    return NULL;
}

void vm_destroy(struct vm *vm)
{
    if (vm->L != NULL)
        lua_close(vm->L);
    if (vm->router != NULL)
        router_destroy(vm->router);
    snapshot_unref(vm->snapshot);
    free(vm->handlers);
    free(vm);
}
