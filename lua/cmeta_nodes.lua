-- cmeta_nodes.lua: the snapshot of node classes, for job_submit. Lua 5.1 to 5.4.
--
-- Reads what `cmeta nodes --snapshot FILE` wrote (docs/schema/cmeta.nodes-1.json): which features
-- there are, and whether that can be relied on. Nothing here raises: a function returns what it
-- found, or nil and the reason.

local nodes = {}

local SCHEMA = "cmeta.nodes/1"
local MAX_BYTES = 4 * 1024 * 1024 -- 10,000 nodes in 200 classes take some 100 kB
local MAX_DEPTH = 16 -- a snapshot has four levels
local MAX_AGE = 86400 -- seconds after which it is stale, unless the site says otherwise
local CLOCK_SKEW = 300 -- seconds that the writer's clock may be ahead
local KEEP = 60 -- seconds for which the file is not read again: slurmctld waits for this code

local BLANK = "^[ \t\r\n]*()"
local ESCAPES = {
   ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}
local NUMBERS = {
   "^-?%d+$", "^-?%d+%.%d+$", "^-?%d+[eE][+-]?%d+$", "^-?%d+%.%d+[eE][+-]?%d+$",
}

local function fail(position, reason)
   error({ reason = "byte " .. position .. ": " .. reason })
end

local function skip(text, position)
   return string.match(text, BLANK, position)
end

-- UTF-8, by hand: only Lua 5.3 and later have it. A lone surrogate DC80 to DCFF is a byte that was
-- no UTF-8 where it was read, as Python writes it.
local function encoded(code, position)
   if code < 0x80 then
      return string.char(code)
   elseif code < 0x800 then
      return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64)
   elseif code >= 0xDC80 and code <= 0xDCFF then
      return string.char(code - 0xDC00)
   elseif code >= 0xD800 and code <= 0xDFFF then
      fail(position, "half of a character")
   end
   local tail = string.char(0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
   if code < 0x10000 then
      return string.char(0xE0 + math.floor(code / 4096)) .. tail
   end
   local second = 0x80 + math.floor(code / 4096) % 64
   return string.char(0xF0 + math.floor(code / 262144), second) .. tail
end

local function unicode(text, position)
   local code = tonumber(string.match(text, "^%x%x%x%x", position) or fail(position, "\\u"), 16)
   if code >= 0xD800 and code <= 0xDBFF then
      local low = tonumber(string.match(text, "^\\u([dD][c-fC-F]%x%x)", position + 4) or "", 16)
      if low then
         return encoded(0x10000 + (code - 0xD800) * 1024 + low - 0xDC00, position), position + 10
      end
   end
   return encoded(code, position), position + 4
end

-- The string whose opening quote is before `position`, and what follows its closing quote.
local function read_string(text, position)
   local plain, after = string.match(text, '^([^"\\%c]*)"()', position)
   if plain then
      return plain, after
   end
   local parts = {}
   while true do
      local chunk, sign, next_position = string.match(text, '^([^"\\%c]*)(["\\%c])()', position)
      if not chunk then
         fail(position, "a string without its end")
      end
      parts[#parts + 1], position = chunk, next_position
      if sign == '"' then
         return table.concat(parts), position
      elseif sign == "\127" then
         parts[#parts + 1] = sign
      elseif sign ~= "\\" then
         fail(position, "a control character in a string")
      else
         local letter = string.sub(text, position, position)
         if letter == "u" then
            parts[#parts + 1], position = unicode(text, position + 1)
         else
            parts[#parts + 1] = ESCAPES[letter] or fail(position, "an unknown escape")
            position = position + 1
         end
      end
   end
end

local read_value

-- The items of an array or object, whose opening bracket is before `position`.
local function read_items(text, position, depth, close, read_item)
   local found = {}
   if depth > MAX_DEPTH then
      fail(position, "nested too deep")
   end
   position = skip(text, position)
   if string.sub(text, position, position) == close then
      return found, position + 1
   end
   while true do
      position = skip(text, read_item(found, position, depth))
      local sign = string.sub(text, position, position)
      if sign == close then
         return found, position + 1
      elseif sign ~= "," then
         fail(position, "neither , nor " .. close)
      end
      position = skip(text, position + 1)
   end
end

local function read_number(text, position)
   local word, after = string.match(text, "^(-?[%d.eE+-]+)()", position)
   for _, form in ipairs(word and not string.match(word, "^-?0%d") and NUMBERS or {}) do
      if string.match(word, form) then
         return tonumber(word) or 0, after
      end
   end
   fail(position, "no value")
end

function read_value(text, position, depth)
   local sign = string.sub(text, position, position)
   if sign == '"' then
      return read_string(text, position + 1)
   elseif sign == "[" then
      return read_items(text, position + 1, depth + 1, "]", function(found, at, level)
         found[#found + 1], at = read_value(text, at, level)
         return at
      end)
   elseif sign == "{" then
      return read_items(text, position + 1, depth + 1, "}", function(found, at, level)
         local key, after = string.match(text, '^"()()', at)
         if not key then
            fail(at, "a key must be a string")
         end
         key, after = read_string(text, after)
         after = skip(text, after)
         if string.sub(text, after, after) ~= ":" then
            fail(after, "no : after a key")
         end
         found[key], after = read_value(text, skip(text, after + 1), level)
         return after
      end)
   end
   for word, value in pairs({ ["true"] = true, ["false"] = false, null = nodes.null }) do
      if string.sub(text, position, position + #word - 1) == word then
         return value, position + #word
      end
   end
   return read_number(text, position)
end

nodes.null = setmetatable({}, { __tostring = function() return "null" end })

-- The value of a JSON text; arrays and objects are tables, null is nodes.null.
function nodes.parse(text)
   local done, value = pcall(function()
      local value, position = read_value(text, skip(text, 1), 0)
      position = skip(text, position)
      if position <= #text then
         fail(position, "more after the end")
      end
      return value
   end)
   if done then
      return value
   end
   return nil, "not JSON, or not all of it: " .. tostring(type(value) == "table" and value.reason or value)
end

-- Seconds since 1970 of `2026-11-25T02:35:14Z`, or nil. os.time() knows local time only; the days
-- are counted as in Hinnant's days_from_civil, years beginning in March.
local function seconds_of(text)
   local fields = { string.match(tostring(text), "^(%d%d%d%d)-(%d%d)-(%d%d)T(%d%d):(%d%d):(%d%d)Z$") }
   if #fields ~= 6 then
      return nil
   end
   for i = 1, 6 do
      fields[i] = tonumber(fields[i])
   end
   local year, month, day = fields[1], fields[2], fields[3]
   if month < 1 or month > 12 or day < 1 or day > 31 then
      return nil
   end
   if month < 3 then
      year, month = year - 1, month + 12
   end
   local era = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
   local days = era + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
   return days * 86400 + fields[4] * 3600 + fields[5] * 60 + fields[6]
end

local function staleness(written, now, max_age)
   if not written then
      return nil
   elseif written > now + CLOCK_SKEW then
      return "written in the future"
   elseif max_age > 0 and now - written > max_age then
      return "stale, written " .. string.format("%.0f", now - written) .. " seconds ago"
   end
   return nil
end

local function features_of(classes)
   local features = {}
   for _, class in ipairs(classes) do
      local listed = type(class) == "table" and class.features
      if type(listed) ~= "table" or listed == nodes.null then
         return nil
      end
      for _, feature in ipairs(listed) do
         features[feature] = true
      end
   end
   return features
end

-- What a snapshot's text says: a table with
--   features   feature -> true, for each that some node has
--   stale      why that may be out of date, or nil
--   unlisted   true when there may be nodes that are not listed
function nodes.understand(text, max_age, now)
   local value, trouble = nodes.parse(text)
   if trouble then
      return nil, trouble
   elseif type(value) ~= "table" or value.schema ~= SCHEMA then
      return nil, "not a snapshot (" .. SCHEMA .. ")"
   end
   local features = type(value.classes) == "table" and features_of(value.classes)
   if not features or #value.classes == 0 then
      return nil, "no node classes"
   end
   local written = value.time ~= nil and value.time ~= nodes.null and seconds_of(value.time)
   if written == nil then
      return nil, "time is not of the form 2026-11-25T02:35:14Z"
   end
   return {
      features = features,
      stale = staleness(written, now, max_age),
      unlisted = value.unlisted_nodes == true,
   }
end

-- The same of a file, read now.
function nodes.read(path, max_age, now)
   local done, found, trouble = pcall(function()
      local file, reason = io.open(path, "rb")
      if not file then
         return nil, reason
      end
      local text, unread = file:read(MAX_BYTES + 1)
      file:close()
      if not text then
         return nil, unread or "empty"
      elseif #text > MAX_BYTES then
         return nil, "larger than " .. MAX_BYTES .. " bytes"
      end
      return nodes.understand(text, max_age or MAX_AGE, now or os.time())
   end)
   if not done then
      return nil, tostring(found)
   end
   return found, trouble
end

local kept = {}

-- The same, read at most once in KEEP seconds. The third value is true when it was read just now:
-- time to say what is wrong with it.
function nodes.current(path, max_age)
   local now = os.time()
   local fresh = kept.path ~= path or kept.max_age ~= max_age or now < kept.at or now - kept.at >= KEEP
   if fresh then
      kept = { path = path, max_age = max_age, at = now }
      kept.found, kept.trouble = nodes.read(path, max_age, now)
   end
   return kept.found, kept.trouble, fresh
end

return nodes
