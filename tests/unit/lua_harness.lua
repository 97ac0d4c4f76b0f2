-- Runs cmeta.ensure() on one job and prints what became of it.
-- Arguments: LUA-DIRECTORY ON_MISSING FIELD=VALUE... [env:NAME=VALUE...] [trap:FIELD...]
--            [option:NAME=VALUE...] [record:FIELD=VALUE...]
-- env: entries go to spank_job_env; trap: makes writing that field an error, as slurmctld may. With a
-- record: of the job before, cmeta.modify() is run.
slurm = { SUCCESS = 0, ERROR = -1, ESLURM_INVALID_FEATURE = 2029 }
local said = {}
function slurm.log_info(format, ...)
   local line = string.format(format, ...)
   local decision = string.match(line, "^cmeta (decision {.*)$")
   said[#said + 1] = decision or "log " .. line
end
function slurm.log_user(format, ...) said[#said + 1] = "user " .. string.format(format, ...) end

package.path = arg[1] .. "/?.lua;" .. package.path
local cmeta = require("cmeta")
local options = { on_missing = arg[2] }
local fields, env, count, traps, record = { environment = {} }, {}, 0, {}, nil
for i = 3, #arg do
   local entry, trap = string.match(arg[i], "^env:(.*)$"), string.match(arg[i], "^trap:(.*)$")
   local option, setting = string.match(arg[i], "^option:(.-)=(.*)$")
   local known, before = string.match(arg[i], "^record:(.-)=(.*)$")
   if known then
      record = record or {}
      record[known] = before
   elseif option then
      options[option] = tonumber(setting) or setting
   elseif entry then
      env[count], count = entry, count + 1
   elseif trap then
      traps[trap] = true
   else
      local name, value = string.match(arg[i], "^(.-)=(.*)$")
      fields[name] = value
   end
end
if count > 0 then
   fields.spank_job_env, fields.spank_job_env_size = env, count
end
local job = setmetatable({}, {
   __index = fields,
   __newindex = function(_, name, value)
      if traps[name] then
         error("no " .. name)
      end
      fields[name] = value
   end,
})
print("rc " .. tostring(record and cmeta.modify(job, record, options) or not record and cmeta.ensure(job, options)))
for _, name in ipairs({ "features", "prefer", "exc_nodes" }) do
   print(name .. " " .. tostring(fields[name]))
end
for _, name in ipairs({ "gres", "min_mem_per_node", "admin_comment" }) do
   if fields[name] then
      print(name .. " " .. tostring(fields[name]))
   end
end
print("image " .. tostring(fields.environment["SLURM_SPANK_CMETA_IMAGE"]))
for _, line in ipairs(said) do
   print(line)
end
