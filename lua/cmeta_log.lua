-- Each decision as one line of slurmctld's log, `cmeta decision {JSON}` (docs/report.md), for `cmeta report`
-- and whoever else reads logs. Lua 5.1 to 5.4.
--
-- All values come from the user: each is cut, has no other than printable ASCII characters, and stands in a
-- JSON string. No error leaves this file, and none of it changes a job.

local decisions = {}

-- Characters of a value. A line has to fit into what syslog servers take: 8 KiB.
local MAX_NAME, MAX_IMAGE, MAX_EXPRESSION, MAX_LIST, MAX_IDENTITY, MAX_DETAIL = 64, 512, 1024, 256, 128, 400

local UNUSUAL = "[^ !#-%[%]-~]" -- but for printable ASCII characters that stand for themselves in JSON

local VERDICTS = { match = true, mismatch = true, unknown = true, fault = true, off = true }

-- A value as it may stand between quotes; empty where there is none.
local function plain(value, most)
   if not value then
      return ""
   end
   if #value > most then
      value = string.sub(value, 1, most)
   end
   if string.find(value, UNUSUAL) then
      value = string.gsub(string.gsub(value, "[^ -~]", "?"), '["\\]', "\\%0")
   end
   return value
end

local function number(value)
   return string.match(tostring(value), "^%d+$") or "null"
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

-- One concatenation for all of it: slurmctld waits meanwhile.
local function submitted(job_desc, decision, refused)
   local reason, detail = decision.REASON, nil
   local blank = reason and string.find(reason, " ", 1, true)
   if blank then
      reason, detail = string.sub(reason, 1, blank - 1), string.sub(reason, blank + 1)
   end
   local took, ms, from = decision.TOOK, nil, nil
   if took and #took < 20 then
      ms, from = string.match(took, "^(%d+) (%l+)$")
   end
   -- Where the client has changed the constraint, it alone knows what it was.
   local before = decision.OWN
   if before and before == decision.CONSTRAINT then
      before = decision.BEFORE
   end
   slurm.log_info(
      "%s",
      'cmeta decision {"v":1,"event":"submit","time":' .. os.time()
         .. ',"user":' .. number(job_desc.user_id)
         .. ',"name":"' .. plain(job_desc.name, MAX_NAME)
         .. '","partition":"' .. plain(job_desc.partition, MAX_NAME)
         .. '","image":"' .. plain(decision.container, MAX_IMAGE)
         .. '","identity":"' .. plain(decision.IDENTITY, MAX_IDENTITY)
         .. '","verdict":"' .. verdict_of(decision, reason)
         .. '","reason":"' .. plain(reason, MAX_NAME)
         .. '","detail":"' .. plain(detail, MAX_DETAIL)
         .. '","before":"' .. plain(before, MAX_EXPRESSION)
         .. '","after":"' .. plain(decision.after, MAX_EXPRESSION)
         .. '","exclude":"' .. plain(decision.EXCLUDE, MAX_LIST)
         .. '","ms":' .. (ms or "null")
         .. ',"from":"' .. (from or "")
         .. '","refused":' .. (refused and "true}" or "false}")
   )
end

local function updated(job_desc, job_rec, asked)
   slurm.log_info(
      "%s",
      'cmeta decision {"v":1,"event":"update","time":' .. os.time()
         .. ',"user":' .. number(job_rec.user_id)
         .. ',"job":' .. number(job_rec.job_id)
         .. ',"name":"' .. plain(job_rec.name, MAX_NAME)
         .. '","partition":"' .. plain(job_rec.partition, MAX_NAME)
         .. '","image":"' .. plain(job_rec.container, MAX_IMAGE)
         .. '","before":"' .. plain(asked, MAX_EXPRESSION)
         .. '","after":"' .. plain(job_desc.features, MAX_EXPRESSION)
         .. '","refused":false}'
   )
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

-- A submission, when all is done to the job; decision.OWN is the constraint that the job came with, .after the
-- one that it has now, .container its image: each look at a field of job_desc takes slurmctld about as long as
-- all that is done with it here. Returns rc, what becomes of the job.
function decisions.submitted(job_desc, decision, options, rc)
   guarded(options, submitted, job_desc, decision, rc ~= slurm.SUCCESS)
   return rc
end

-- A change of a job to which something was added; `asked` is the constraint that the user wants.
function decisions.updated(job_desc, job_rec, options, asked)
   guarded(options, updated, job_desc, job_rec, asked)
end

return decisions
