/* SPDX-License-Identifier: MIT
 * What a `ws` takes along to newer code. */
#include "lua/bind_move.h"

#include <lauxlib.h>

#include "lua/bind_req.h"
#include "lua/bind_value.h"
#include "lua/bind_ws.h"
#include "script/live.h"

/* Appends the copy of the value at the top. What cannot be copied stays behind, which is logged. */
static void bind_move_copy(lua_State *L, const struct session *s, const char *what, struct buf *out)
{
    const struct vm *vm = vm_of(L);
    struct log_context about = live_about(s);
    struct bind_value_dropped dropped;
    enum bind_value_result result =
        bind_value_copy_what_can(L, lua_gettop(L), what, (size_t)vm->home->config->max_state, out, &dropped);
    if (result != BIND_VALUE_DONE)
        luaL_error(L, "%s: %s", what,
                   result == BIND_VALUE_TOO_LARGE ? "larger than max_state" : "out of memory");
    if (dropped.count > 0)
        log_write(LOG_WARN, &about, "a reload moves only plain data; left behind in generation %llu: %s",
                  (unsigned long long)vm->generation, dropped.text);
}

int bind_move_pack(lua_State *L)
{
    struct live_luggage *luggage = sched_take_arg(L);
    const struct session *s = luggage->session;
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->owner_ref);
    if (bind_ws_push_kept(L, 1, BIND_WS_STATE) != LUA_TNIL)
        bind_move_copy(L, s, "ws.state", &luggage->state);
    if (bind_ws_push_kept(L, 1, BIND_WS_REQUEST) != LUA_TNIL && bind_req_push_kept_context(L, lua_gettop(L)))
        bind_move_copy(L, s, "req.context", &luggage->context);
    return 0;
}

int bind_move_arrive(lua_State *L)
{
    const struct live_arrival *arrival = sched_take_arg(L);
    const struct live_luggage *luggage = arrival->luggage;
    struct session *s = luggage->session;
    lua_settop(L, 0);
    bind_ws_push_new(L, s, true);
    if (luggage->state.len > 0) {
        bind_value_push(L, luggage->state.data, luggage->state.len);
        bind_ws_set_kept(L, BIND_WS_STATE);
    }
    if (luggage->context.len > 0) {
        bind_req_push(L, s->head);
        bind_value_push(L, luggage->context.data, luggage->context.len);
        bind_req_set_context(L, lua_gettop(L) - 1);
        bind_ws_set_kept(L, BIND_WS_REQUEST);
    }
    return bind_ws_call_route(L, arrival->handler);
}
