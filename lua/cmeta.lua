-- cmeta.lua: the controller's half of slurm-cmeta. Lua 5.1 to 5.4.
--
-- The client's plugin reads the image, changes the job's options and hands its decision over in
-- spank_job_env. Here the decision is applied where the client could not change the options itself;
-- where it did, nothing changes. What is handed over is user input: it may only narrow the job.
--
-- No error leaves this file: whatever goes wrong, the job stays as the user wrote it.

local cmeta = { version = "0.1.0" }

local MAX_EXPRESSION = 1024 -- slurmctld takes no longer one (job_mgr.c, _test_job_desc_fields)
local MAX_HOSTLIST = 65536
local NAME = "^[%w_.=+:/@~%%%-]+$"
local HOSTLIST = "^[%w_.,%[%]%-]+$"

local function log(text)
   slurm.log_info("%s", "cmeta: " .. text)
end

-- spank_job_env is a table that starts at 0; it is nil when it is empty.
local function handed_over(job_desc)
   local found = {}
   local env, size = job_desc.spank_job_env, job_desc.spank_job_env_size or 0
   if type(env) ~= "table" then
      return found
   end
   for i = 0, size - 1 do
      local name, value = string.match(env[i] or "", "^CMETA_(%u+)=(.*)$")
      if name then
         found[name] = value
      end
   end
   return found
end

local function split(text, separator)
   local parts, start = {}, 1
   while true do
      local at = string.find(text, separator, start, true)
      parts[#parts + 1] = string.sub(text, start, at and at - 1 or nil)
      if not at then
         return parts
      end
      start = at + 1
   end
end

-- True for `a`, `a&b`, `a&(b|c)&d`: the only forms that the client adds. `|` stands in parentheses
-- alone, so nothing of it can undo an AND with what stands before.
local function is_addition(text)
   for _, part in ipairs(split(text, "&")) do
      local group = string.match(part, "^%((.*)%)$")
      for _, name in ipairs(split(group or part, group and "|" or "&")) do
         if not string.match(name, NAME) then
            return false
         end
      end
   end
   return true
end

-- What `expression` adds to `before` by AND, so that it allows no node that `before` does not allow;
-- nil when it is anything else.
local function addition(before, expression)
   if #expression > MAX_EXPRESSION then
      return nil
   end
   for _, kept in ipairs(before == "" and { "" } or { before .. "&", "(" .. before .. ")&" }) do
      if string.sub(expression, 1, #kept) == kept then
         local added = string.sub(expression, #kept + 1)
         return is_addition(added) and added or nil
      end
   end
   return nil
end

function cmeta.narrows(before, expression)
   return addition(before, expression) ~= nil
end

-- The first name in an addition that no node has; nil when all are there, or `features` is nil.
-- slurmctld refuses a job that names such a feature.
local function missing_name(added, features)
   for name in string.gmatch(features and added or "", "[^&|()]+") do
      if not features[name] then
         return name
      end
   end
   return nil
end

-- What `field` becomes: the handed-over expression, or nil to leave it.
local function new_expression(field, expression, bases, features)
   if not expression then
      return nil
   end
   for _, base in ipairs(bases) do
      if expression == base then
         return nil -- the client has done it
      end
   end
   for _, base in ipairs(bases) do
      local added = addition(base, expression)
      local missing = added and missing_name(added, features)
      if missing then
         log("ignored a handed-over " .. field .. ": no node has the feature " .. missing)
         return nil
      elseif added then
         return expression
      end
   end
   log("ignored a handed-over " .. field .. " that does not follow from the job's own")
   return nil
end

local function new_exclude(own, nodes)
   if not nodes or own == nodes or string.sub(own, -#nodes - 1) == "," .. nodes then
      return nil
   end
   if #nodes > MAX_HOSTLIST or not string.match(nodes, HOSTLIST) then
      log("ignored a handed-over exclude list that is no host list")
      return nil
   end
   return own == "" and nodes or own .. "," .. nodes
end

-- Every change to the job, as field -> value; nothing is changed yet.
local function changes_of(job_desc, decision, features)
   local constraint, prefer = job_desc.features or "", job_desc.prefer or ""
   local changes = {}
   changes.features = new_expression("constraint", decision.CONSTRAINT, { constraint }, features)
   local bases = { prefer }
   if prefer == "" then
      bases = { changes.features or constraint }
      if decision.PREFER == bases[1] then
         bases = { "" }
      end
   end
   changes.prefer = new_expression("prefer", decision.PREFER, bases, features)
   changes.exc_nodes = new_exclude(job_desc.exc_nodes or "", decision.EXCLUDE)
   return changes
end

local function apply(job_desc, changes)
   local before, told = {}, {}
   for _, field in ipairs({ "features", "prefer", "exc_nodes" }) do
      if changes[field] then
         before[field] = job_desc[field] or ""
         local done, trouble = pcall(function()
            job_desc[field] = changes[field]
         end)
         if not done then
            for changed, value in pairs(before) do
               pcall(function()
                  job_desc[changed] = value
               end)
            end
            error(trouble)
         end
         told[#told + 1] = field .. " " .. changes[field]
      end
   end
   if #told > 0 then
      slurm.log_user("%s", "cmeta: " .. table.concat(told, ", "))
      log("user " .. tostring(job_desc.user_id) .. ": " .. table.concat(told, ", "))
   end
end

-- A container job without a decision: from a client without the plugin, or from slurmrestd.
local function without_decision(job_desc, on_missing)
   if on_missing == "reject" then
      slurm.log_user("%s", "cmeta: error: this site takes container jobs only from hosts that have"
         .. " slurm-cmeta's plugin")
      return slurm.ERROR
   end
   if on_missing == "warn" then
      slurm.log_user("%s", "cmeta: warning: nobody has looked at the job's image")
   end
   -- The node's plugin runs the job in its image; a batch job's environment can tell it so.
   local environment, image = job_desc.environment, job_desc.container
   if type(environment) == "table" and string.sub(image, 1, 1) == "/" then
      environment["SLURM_SPANK_CMETA_IMAGE"] = image
   end
   return slurm.SUCCESS
end

-- The features that nodes have, feature -> true, by the snapshot that the site names; nil when there
-- is none, or when it cannot be said of any feature that no node has it.
local function known_features(options)
   if not options.snapshot then
      return nil
   end
   local snapshot = require("cmeta_nodes")
   local found, trouble, fresh = snapshot.current(options.snapshot, options.snapshot_max_age)
   local doubt = not found and trouble or found and found.stale
   if doubt and fresh then
      log("warning: " .. options.snapshot .. ": " .. doubt)
   end
   if doubt or found.unlisted then
      return nil
   end
   return found.features
end

local function ensure(job_desc, options)
   local container = job_desc.container
   if not container or container == "" then
      return slurm.SUCCESS
   end
   local decision = handed_over(job_desc)
   if not decision.VERDICT then
      return without_decision(job_desc, options.on_missing or "accept")
   end
   local done, features = pcall(known_features, options)
   if not done then
      log("warning: the snapshot is not looked at: " .. tostring(features))
      features = nil
   end
   apply(job_desc, changes_of(job_desc, decision, features))
   return slurm.SUCCESS
end

-- Call it from slurm_job_submit; it returns the value to return. Options:
--   on_missing   what becomes of a container job that brings no decision:
--                "accept" (default), "warn", "reject"
--   snapshot     a file that `cmeta nodes --snapshot` wrote: a handed-over constraint or preference
--                that names a feature which no node has is ignored
--   snapshot_max_age   seconds after which the snapshot is stale, and not relied on: 86400
function cmeta.ensure(job_desc, options)
   local done, result = pcall(ensure, job_desc, options or {})
   if done then
      return result
   end
   pcall(log, "error, the job is left as it is: " .. tostring(result))
   return slurm.SUCCESS
end

return cmeta
