-- cmeta.lua: the controller's half of slurm-cmeta. Lua 5.1 to 5.4.
--
-- The client's plugin reads the image, changes the job's options and hands its decision over in
-- spank_job_env. Here the decision is applied where the client could not change the options itself;
-- where it did, nothing changes. What is handed over is user input: it may only narrow the job.
--
-- No error leaves this file: whatever goes wrong, the job stays as the user wrote it.

local expressions = require("cmeta_expression")
local decisions = require("cmeta_log")

local cmeta = { version = "0.1.0" }

local MAX_HOSTLIST = 65536
local MAX_MEMORY = 2 ^ 30 -- MiB: a pebibyte
local HOSTLIST = "^[%w_.,%[%]%-]+$"
local GPU = "^[Gg][Pp][Uu][%w_.:%-]*$"
local MAX_GPU = 64
local MAX_RECORD = 2048 -- AdminComment has no limit of its own, and accounting keeps it

local MAX_SAID = 2000 -- characters of a line

-- A job's own fields may hold anything: line breaks that forge a line of the log, escape sequences,
-- megabytes. Nothing that we say has other than ASCII characters.
local function line_of(text)
   local short = #text > MAX_SAID and string.sub(text, 1, MAX_SAID) .. "..." or text
   return "cmeta: " .. string.gsub(short, "[^ -~]", "?")
end

local function log(text)
   slurm.log_info("%s", line_of(text))
end

local function say(text)
   slurm.log_user("%s", line_of(text))
end

-- spank_job_env is a table that starts at 0; it is nil when it is empty.
local function handed_over(job_desc)
   local found = {}
   local env, size = job_desc.spank_job_env, job_desc.spank_job_env_size or 0
   if type(env) ~= "table" then
      return found
   end
   for i = 0, size - 1 do
      local entry = env[i]
      local equals = entry and string.sub(entry, 1, 6) == "CMETA_" and string.find(entry, "=", 7, true)
      if equals then
         found[string.sub(entry, 7, equals - 1)] = string.sub(entry, equals + 1)
      end
   end
   return found
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

-- What grammar says of texts, which many jobs in a row have in common. It depends on the texts alone.
local MAX_REMEMBERED = 256
local remembered, remembered_count = {}, 0

local function remember(key, work, ...)
   local known = remembered[key]
   if known == nil then
      known = work(...) or false
      if remembered_count >= MAX_REMEMBERED then
         remembered, remembered_count = {}, 0
      end
      remembered[key], remembered_count = known, remembered_count + 1
   end
   return known
end

-- What `field` becomes: the handed-over expression, or nil to leave it.
local function new_expression(field, expression, bases, features)
   for _, base in ipairs(bases) do
      if expression == base then
         return nil -- the client has done it
      end
   end
   for _, base in ipairs(bases) do
      local added = remember(base .. "\0" .. expression, expressions.addition, base, expression)
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

-- True when the list is `nodes`, or ends with it.
local function ends_with(list, nodes)
   return list == nodes or string.sub(list, -#nodes - 1) == "," .. nodes
end

local function is_hostlist(nodes)
   return #nodes <= MAX_HOSTLIST and string.match(nodes, HOSTLIST) ~= nil
end

local function new_exclude(own, nodes)
   if ends_with(own, nodes) then
      return nil
   end
   if not is_hostlist(nodes) then
      log("ignored a handed-over exclude list that is no host list")
      return nil
   end
   return own == "" and nodes or own .. "," .. nodes
end

-- Memory and GPUs are the user's own affair where they ask for any. min_mem_per_node and
-- min_mem_per_cpu are nil where they are not set; pn_min_memory holds both, as a number that Lua
-- cannot tell apart.
local function new_memory(job_desc, mebibytes)
   local asked = job_desc.min_mem_per_node or job_desc.min_mem_per_cpu or job_desc.mem_per_tres
   if asked then
      return nil
   end
   local value = string.match(mebibytes, "^[1-9]%d*$") and tonumber(mebibytes)
   if not value or value > MAX_MEMORY then
      log("ignored a handed-over memory that is no number of MiB")
      return nil
   end
   return value
end

local function has_gpu(list)
   for item in string.gmatch(string.lower(list or ""), "[^,]+") do
      local name = string.match(string.gsub(item, "^gres[:/]", ""), "^[^:=]*")
      if name == "gpu" or name == "mps" or name == "shard" then
         return true
      end
   end
   return false
end

-- The field `gres` takes what --gres takes, in every release; tres_per_node wants a prefix, which is
-- not the same in all of them.
local function new_gres(job_desc, gres)
   for _, field in ipairs({ "tres_per_job", "tres_per_node", "tres_per_socket", "tres_per_task" }) do
      if has_gpu(job_desc[field]) then
         return nil
      end
   end
   if #gres > MAX_GPU or not string.match(gres, GPU) or not has_gpu(gres) then
      log("ignored a handed-over gres that is no GPU")
      return nil
   end
   local own = job_desc.gres or ""
   return own == "" and gres or own .. "," .. gres
end

-- Every change to the job, as field -> value; nothing is changed yet.
local function changes_of(job_desc, decision, features)
   local changes, constraint = {}, decision.OWN or ""
   if decision.CONSTRAINT then
      changes.features = new_expression("constraint", decision.CONSTRAINT, { constraint }, features)
   end
   if decision.PREFER then
      local bases = { job_desc.prefer or "" }
      if bases[1] == "" then
         bases = { changes.features or constraint }
         if decision.PREFER == bases[1] then
            bases = { "" }
         end
      end
      changes.prefer = new_expression("prefer", decision.PREFER, bases, features)
   end
   if decision.EXCLUDE then
      changes.exc_nodes = new_exclude(job_desc.exc_nodes or "", decision.EXCLUDE)
   end
   if decision.GRES then
      changes.gres = new_gres(job_desc, decision.GRES)
   end
   if decision.MEMORY then
      changes.min_mem_per_node = new_memory(job_desc, decision.MEMORY)
   end
   return changes
end

-- Memory comes last: a number cannot be taken back to what was not set.
local FIELDS = { "features", "prefer", "exc_nodes", "gres", "min_mem_per_node" }

-- What the fields of the job in hand were before they were changed, for guarded(). slurmctld runs one
-- script at a time.
local before

local function change(job_desc, field, value)
   if before[field] == nil then
      before[field] = job_desc[field] or ""
   end
   job_desc[field] = value
end

local function apply(job_desc, changes)
   local told = {}
   for _, field in ipairs(FIELDS) do
      if changes[field] then
         change(job_desc, field, changes[field])
         told[#told + 1] = field .. " " .. changes[field]
      end
   end
   return table.concat(told, ", ")
end

local function tell(told, who)
   say(told)
   log(who .. ": " .. told)
end

-- What the image demands is kept with the job, for the day when the user changes its constraint. The
-- field is AdminComment: users can read it and not change it, and it is all of our own that
-- slurm_job_modify sees of a job. A site that writes there itself keeps it for itself. What is kept is
-- user input all the same, and may be anything that looks like features.
local function record(job_desc, decision)
   local kept, required, exclude = {}, decision.REQUIRED, decision.EXCLUDE
   if required and #required <= expressions.MAX and remember(required, expressions.is_addition, required) then
      kept[#kept + 1] = "cmeta requires " .. required
   end
   if exclude and is_hostlist(exclude) and ends_with(job_desc.exc_nodes or "", exclude) then
      kept[#kept + 1] = "cmeta excludes " .. exclude
   end
   if decision.PREFERS == "image" and decision.PREFER then
      kept[#kept + 1] = "cmeta prefers"
   end
   local text = table.concat(kept, "; ")
   if text ~= "" and #text <= MAX_RECORD and (job_desc.admin_comment or "") == "" then
      change(job_desc, "admin_comment", text)
   end
end

-- A container job without a decision: from a client without the plugin, or from slurmrestd.
local function without_decision(job_desc, on_missing)
   if on_missing == "reject" then
      say("error: this site takes container jobs only from hosts that have slurm-cmeta's plugin")
      -- slurmrestd and scrontab keep that from the user.
      log("user " .. tostring(job_desc.user_id) .. ": refused a container job without a decision")
      return slurm.ERROR
   end
   if on_missing == "warn" then
      say("warning: nobody has looked at the job's image")
   end
   -- The node's plugin runs the job in its image; a batch job's environment can tell it so.
   local environment, image = job_desc.environment, job_desc.container
   local runs = string.sub(image, 1, 1) == "/" or string.find(image, "^docker://") or string.find(image, "^oras://")
   if type(environment) == "table" and runs then
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
   decision.OWN, decision.container = job_desc.features, container -- whatever was handed over as such
   if not decision.VERDICT then
      local rc = without_decision(job_desc, options.on_missing or "accept")
      decision.after = decision.OWN
      return decisions.submitted(job_desc, decision, options, rc)
   end
   local done, features = pcall(known_features, options)
   if not done then
      log("warning: the snapshot is not looked at: " .. tostring(features))
      features = nil
   end
   local changes = changes_of(job_desc, decision, features)
   local told = next(changes) and apply(job_desc, changes) or ""
   if told ~= "" then
      tell(told, "user " .. tostring(job_desc.user_id))
   end
   decision.after = changes.features or decision.OWN
   if (options.on_modify or "keep") == "keep" then
      record(job_desc, decision)
   end
   return decisions.submitted(job_desc, decision, options, slurm.SUCCESS)
end

-- What becomes of a field that the user sets: with what the image demands.
local function kept(changes, field, expression, required)
   local whole = expressions.with_required(expression, required)
   if not whole then
      return "the new " .. (field == "features" and "constraint" or "preference") .. " cannot carry what the"
         .. " image needs, " .. required .. ", and is taken as it is"
   elseif whole ~= expression then
      changes[field] = whole
   end
   return nil
end

-- Every change to a modification, as field -> value, and what could not be kept.
local function changes_of_update(job_desc, comment)
   local constraint, prefer, exclude = job_desc.features, job_desc.prefer, job_desc.exc_nodes
   local required = string.match(comment, "cmeta requires ([^;%s]+)")
   local changes, warnings = {}, {}
   if required and expressions.is_addition(required) then
      if constraint then
         warnings[1] = kept(changes, "features", constraint, required)
      end
      if prefer and prefer ~= "" then
         warnings[#warnings + 1] = kept(changes, "prefer", prefer, required)
      end
   end
   -- Slurm tries a preference in place of the constraint: one that came with the image would undo what
   -- the user asks for now. It cannot be taken away here, nor seen whether it is still the job's; but it
   -- can be no other than the constraint.
   if string.find(comment, "cmeta prefers", 1, true) and not prefer and constraint then
      changes.prefer = changes.features or constraint ~= "" and constraint or nil
   end
   local excluded = exclude and string.match(comment, "cmeta excludes ([^;%s]+)")
   if excluded then
      changes.exc_nodes = new_exclude(exclude, excluded)
   end
   return changes, warnings
end

local function keep(job_desc, job_rec, options)
   if not job_rec.container then
      return slurm.SUCCESS
   end
   -- Only an administrator can change the comment; in the same request, the new one counts.
   local comment = job_desc.admin_comment or job_rec.admin_comment or ""
   local asked = job_desc.features
   local changes, warnings = changes_of_update(job_desc, comment)
   local told = apply(job_desc, changes)
   if #warnings > 0 then
      told = (told == "" and "" or told .. "; ") .. "warning: " .. table.concat(warnings, "; ")
   end
   if told == "" then
      return slurm.SUCCESS
   end
   log("job " .. tostring(job_rec.job_id) .. ": " .. told)
   decisions.updated(job_desc, job_rec, options, asked)
   -- 22.05 has no way to tell the user here, and logs an error when one tries.
   if slurm.ESLURM_INVALID_FEATURE then
      say(told)
   end
   return slurm.SUCCESS
end

-- Whatever goes wrong, and wherever: the job is left as it was written, and slurmctld sees no error.
local function guarded(call, job_desc, ...)
   before = {}
   local done, result = pcall(call, job_desc, ...)
   if done then
      return result
   end
   before.min_mem_per_node = nil
   for field, value in pairs(before) do
      pcall(function()
         if (job_desc[field] or "") ~= value then
            job_desc[field] = value
         end
      end)
   end
   pcall(function()
      log("error, the job is left as it is: " .. tostring(result))
   end)
   return slurm.SUCCESS
end

-- Call it from slurm_job_submit; it returns the value to return. Options:
--   on_missing   what becomes of a container job that brings no decision:
--                "accept" (default), "warn", "reject"
--   on_modify    "keep" (default): what the image demands is written into the job's AdminComment, for
--                cmeta.modify; "accept": it is not
--   snapshot     a file that `cmeta nodes --snapshot` wrote: a handed-over constraint or preference
--                that names a feature which no node has is ignored
--   snapshot_max_age   seconds after which the snapshot is stale, and not relied on: 86400
--   log          "decisions" (default): each decision is one line of slurmctld's log, for `cmeta report`;
--                "none": it is not
function cmeta.ensure(job_desc, options)
   return guarded(ensure, job_desc, options or {})
end

-- Call it from slurm_job_modify with its first two arguments; it returns the value to return. A new
-- constraint or preference of a job with an image gets what the image demands by AND again. Option: log.
function cmeta.modify(job_desc, job_rec, options)
   return guarded(keep, job_desc, job_rec, options or {})
end

return cmeta
