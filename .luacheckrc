-- SPDX-License-Identifier: MIT
-- What luacheck knows about the scripts in this tree.
std = "lua54"
max_line_length = 110
read_globals = {"app", "json", "log"}
ignore = {"432"} -- a handler names its ws as the route's function does

-- Definitions for editors: functions without a body, values nobody uses.
files["lua/types"] = {globals = {"app", "json", "log"}, ignore = {"2.."}, max_line_length = false}
files["tests/lua"] = {std = "+busted"}
