-- Each decision as one line of slurmctld's log, `cmeta decision {JSON}` (docs/report.md), for `cmeta report`
-- and whoever else reads logs. Lua 5.1 to 5.4.
--
-- All values come from the user: each is cut, has no other than printable ASCII characters, and stands in a
-- JSON string. No error leaves this file, and none of it changes a job.

local decisions = {}

-- Characters of a value. A line has to fit into what syslog servers take: 8 KiB.
local MAX_NAME, MAX_IMAGE, MAX_EXPRESSION, MAX_LIST, MAX_IDENTITY, MAX_DETAIL = 64, 512, 1024, 256, 128, 400

local VERDICTS = { match = true, mismatch = true, unknown = true, fault = true, off = true }

local function put(parts, key, value, most)
   if not value or value == "" then
      return
   end
   value = string.gsub(string.sub(tostring(value), 1, most), "[^ -~]", "?")
   parts[#parts + 1] = '"' .. key .. '":"' .. string.gsub(value, '["\\]', "\\%0") .. '"'
end

local function put_number(parts, key, value)
   local digits = string.match(tostring(value), "^%d+$")
   if digits then
      parts[#parts + 1] = '"' .. key .. '":' .. digits
   end
end

local function write(parts, refused)
   parts[#parts + 1] = '"refused":' .. tostring(refused)
   slurm.log_info("%s", "cmeta decision {" .. table.concat(parts, ",") .. "}")
end

local function begun(event, user)
   local parts = { '"v":1', '"event":"' .. event .. '"' }
   put_number(parts, "time", os.time())
   put_number(parts, "user", user)
   return parts
end

-- A client's word for what it decided; a fault of the matcher's is an answer, too.
local function verdict_of(decision, reason)
   if not decision.VERDICT then
      return "missing"
   elseif reason == "fault" then
      return "fault"
   end
   return VERDICTS[decision.VERDICT] and decision.VERDICT or "invalid"
end

local function submitted(job_desc, decision, refused)
   local told = decision.REASON or ""
   local reason, detail = string.match(told, "^([%l-]+) (.*)$")
   reason = reason or string.match(told, "^[%l-]+$")
   local ms, from = string.match(decision.TOOK or "", "^(%d+) (%l+)$")
   -- Where the client has changed the constraint, it alone knows what it was.
   local before = decision.OWN
   if decision.CONSTRAINT and before == decision.CONSTRAINT then
      before = decision.BEFORE
   end
   local parts = begun("submit", job_desc.user_id)
   put(parts, "name", job_desc.name, MAX_NAME)
   put(parts, "partition", job_desc.partition, MAX_NAME)
   put(parts, "image", job_desc.container, MAX_IMAGE)
   put(parts, "identity", decision.IDENTITY, MAX_IDENTITY)
   put(parts, "verdict", verdict_of(decision, reason), MAX_NAME)
   put(parts, "reason", reason, MAX_NAME)
   put(parts, "detail", detail, MAX_DETAIL)
   put(parts, "before", before, MAX_EXPRESSION)
   put(parts, "after", job_desc.features, MAX_EXPRESSION)
   put(parts, "exclude", decision.EXCLUDE, MAX_LIST)
   if ms and #ms <= 9 then
      put_number(parts, "ms", ms)
      put(parts, "from", from, MAX_NAME)
   end
   write(parts, refused)
end

local function updated(job_desc, job_rec, asked)
   local parts = begun("update", job_rec.user_id)
   put_number(parts, "job", job_rec.job_id)
   put(parts, "name", job_rec.name, MAX_NAME)
   put(parts, "partition", job_rec.partition, MAX_NAME)
   put(parts, "image", job_rec.container, MAX_IMAGE)
   put(parts, "before", asked, MAX_EXPRESSION)
   put(parts, "after", job_desc.features, MAX_EXPRESSION)
   write(parts, false)
end

local function guarded(options, ...)
   if options.log ~= "none" then
      local done, trouble = pcall(...)
      if not done then
         trouble = string.gsub(tostring(trouble), "[^ -~]", "?")
         pcall(slurm.log_info, "%s", "cmeta: the decision is not logged: " .. trouble)
      end
   end
end

-- A submission, when all is done to the job; decision.OWN is the constraint that the job came with. Returns
-- rc, what becomes of it.
function decisions.submitted(job_desc, decision, options, rc)
   guarded(options, submitted, job_desc, decision, rc ~= slurm.SUCCESS)
   return rc
end

-- A change of a job to which something was added; `asked` is the constraint that the user wants.
function decisions.updated(job_desc, job_rec, options, asked)
   guarded(options, updated, job_desc, job_rec, asked)
end

return decisions
