/* SPDX-License-Identifier: MIT
 * The Lua API as a whole. */
#include "lua/bind.h"

#include "lua/bind_app.h"
#include "lua/bind_connect.h"
#include "lua/bind_done.h"
#include "lua/bind_json.h"
#include "lua/bind_library.h"
#include "lua/bind_life.h"
#include "lua/bind_log.h"
#include "lua/bind_move.h"
#include "lua/bind_promise.h"
#include "lua/bind_req.h"
#include "lua/bind_request.h"
#include "lua/bind_route.h"
#include "lua/bind_task.h"
#include "lua/bind_ws.h"

static int bind_open(lua_State *L)
{
    bind_app_open(L);
    bind_connect_open(L);
    bind_json_open(L);
    bind_library_open(L);
    bind_log_open(L);
    bind_promise_open(L);
    bind_req_open(L);
    bind_request_open(L);
    bind_task_open(L);
    bind_ws_open(L);
    return 0;
}

const struct vm_bindings bind_all = {
    .open = bind_open,
    .seal = bind_route_seal,
    .life = bind_life_run,
    .request = bind_request_run,
    .stream_forget = bind_request_stream_forget,
    .ws_open = bind_ws_on_open,
    .ws_message = bind_ws_push_message,
    .ws_control = bind_ws_on_control,
    .ws_drain = bind_ws_on_drain,
    .ws_close = bind_ws_on_close,
    .ws_pack = bind_move_pack,
    .ws_arrive = bind_move_arrive,
    .give_up_dones = bind_done_give_up,
    .give_up_promises = bind_promise_give_up,
    .ws_wants_control = bind_ws_wants_control,
    .ws_forget = bind_ws_forget,
    .ws_leave = bind_ws_leave,
};
