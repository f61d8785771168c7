"""What happens to a job in Redis, each step complete or not at all. Lua, run by the server.

Keys carry one hash tag, so that they share a slot on a Redis Cluster. A job is a hash; its
position in the queue is an entry of one of four streams (high, normal, low, and alone for jobs
under which a worker has died) and names it by id.
``attempts`` is the fence: only who took the latest attempt may write its end.
Scripts that take or end many jobs make their keys from the prefix, which holds the hash tag.
"""

from __future__ import annotations

# KEYS: job, stream, idempotency (may be unused)
# ARGV: id, life of the hash in s, idempotency used (0/1), field, value, …
SUBMIT = """
if ARGV[3] == '1' then
  local known = redis.call('GET', KEYS[3])
  if known then return {0, known} end
  redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', 'id', ARGV[1])
return {1, ARGV[1]}
"""

# Takes one job: the fields to run it with, or why there is nothing to do.
# KEYS: callbacks, dead, …
# ARGV: group, worker, now, max attempts, result ttl, job prefix, event prefix, …
_TAKE_ONE = """
local now = tonumber(ARGV[3])
local function take(stream, entry, id)
  local key = ARGV[6] .. id
  local job = redis.call('HMGET', key, 'state', 'deadline', 'attempts', 'uncounted')
  local state = job[1]
  local attempts = tonumber(job[3] or '0')
  local counted = attempts - tonumber(job[4] or '0')
  local ended = nil
  if not state or (state ~= 'queued' and state ~= 'running') then
    ended = ''
  elseif tonumber(job[2]) <= now then
    ended = 'expired'
  elseif counted >= tonumber(ARGV[4]) then
    ended = 'failed'
  end
  if ended then
    redis.call('XACK', stream, ARGV[1], entry)
    redis.call('XDEL', stream, entry)
    if ended ~= '' then
      local said = ended == 'failed' and 'workers died or failed on every attempt' or
        'the job was not begun before its deadline'
      redis.call('HSET', key, 'state', ended, 'finished', ARGV[3], 'detail', said)
      redis.call('HDEL', key, 'input')
      redis.call('EXPIRE', key, ARGV[5])
      if ended == 'failed' then
        redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'id', id)
      end
      local callback = redis.call('HGET', key, 'callback')
      if callback and callback ~= '' then redis.call('ZADD', KEYS[1], ARGV[3], id) end
      redis.call('PUBLISH', ARGV[7] .. id, ended)
    end
    return {ended}
  end
  redis.call('HSET', key, 'state', 'running', 'started', ARGV[3], 'attempts', attempts + 1,
    'worker', ARGV[2])
  redis.call('PUBLISH', ARGV[7] .. id, 'running')
  return redis.call('HMGET', key, 'model', 'content_type', 'input', 'input_ref', 'deadline',
    'attempts', 'request_id', 'traceparent', 'callback', 'created', 'query', 'arm', 'owner',
    'headers', 'uncounted')
end
"""

# Take as many jobs as there is room for, those of the first streams first. A job that has to run
# alone comes by itself and is only reserved: stream 0, entry, id, no fields.
# KEYS: callbacks, dead, alone, streams. ARGV: as above, then room.
# Answers: stream (from 1), entry, id, fields.
TAKE = (
    _TAKE_ONE
    + """
local out = {}
local room = tonumber(ARGV[8])
local lone = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1,
  'STREAMS', KEYS[3], '>')
if lone then
  local entry = lone[1][2][1]
  return {{0, entry[1], entry[2][2], {}}}
end
for n = 4, #KEYS do
  if room <= 0 then break end
  local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', room,
    'STREAMS', KEYS[n], '>')
  for _, entry in ipairs(found and found[1][2] or {}) do
    room = room - 1
    local id = entry[2][2]
    out[#out + 1] = {n - 3, entry[1], id, take(KEYS[n], entry[1], id)}
  end
end
return out
"""
)

# Take the jobs of entries that this worker was given.
# KEYS: callbacks, dead, stream. ARGV: as above, then for each job: entry, id. Answers as TAKE does.
TAKE_GIVEN = (
    _TAKE_ONE
    + """
local out = {}
for n = 8, #ARGV, 2 do
  out[#out + 1] = {1, ARGV[n], ARGV[n + 1], take(KEYS[3], ARGV[n], ARGV[n + 1])}
end
return out
"""
)

# Queue the jobs of entries again whose worker has let them go. Where that worker is still known
# it only lost its claim. Else it died: which of its jobs ended it is not known, so each of them is
# tried alone, and the attempt does not count. A job that ended a worker alone has failed.
# KEYS: callbacks, dead, stream, alone.
# ARGV: group, now, result ttl, job prefix, event prefix, prefix of workers, deaths alone until it
# fails, error, detail, then for each job: entry, id.
# Answers for each job: again, alone, failed, or nothing where it had ended.
REQUEUE = """
local out = {}
for n = 10, #ARGV, 2 do
  local entry, id, outcome = ARGV[n], ARGV[n + 1], ''
  local key = ARGV[4] .. id
  redis.call('XACK', KEYS[3], ARGV[1], entry)
  redis.call('XDEL', KEYS[3], entry)
  local job = redis.call('HMGET', key, 'state', 'worker', 'uncounted', 'deaths', 'callback')
  local running = job[1] == 'running'
  local died = running and redis.call('EXISTS', ARGV[6] .. (job[2] or '')) == 0
  if job[1] == 'queued' or (running and not died) then
    outcome = 'again'
    redis.call('HSET', key, 'state', 'queued')
    redis.call('XADD', KEYS[3], '*', 'id', id)
  elseif died then
    local deaths = tonumber(job[4] or '0')
    if KEYS[3] == KEYS[4] then deaths = deaths + 1 end
    if deaths >= tonumber(ARGV[7]) then
      outcome = 'failed'
      redis.call('HSET', key, 'state', 'failed', 'finished', ARGV[2], 'deaths', deaths,
        'error', ARGV[8], 'detail', ARGV[9])
      redis.call('HDEL', key, 'input')
      redis.call('EXPIRE', key, ARGV[3])
      redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'id', id)
      if job[5] and job[5] ~= '' then redis.call('ZADD', KEYS[1], ARGV[2], id) end
    else
      outcome = 'alone'
      redis.call('HSET', key, 'state', 'queued', 'deaths', deaths,
        'uncounted', tonumber(job[3] or '0') + 1,
        'detail', 'the worker ended while it ran this job, which is tried alone next')
      redis.call('XADD', KEYS[4], '*', 'id', id)
    end
  end
  if outcome ~= '' then
    redis.call('PUBLISH', ARGV[5] .. id, outcome == 'failed' and 'failed' or 'queued')
  end
  out[#out + 1] = outcome
end
return out
"""

# Write the ends of jobs. An end is left out where the job had ended or another worker has it.
# KEYS: callbacks, dead, streams. ARGV: group, result ttl, now, job prefix, event prefix, then for
# each end: stream (from 1), entry, id, attempt, state, number of what follows, field, value, …
# Answers how many were written.
FINISH = """
local written, at, entries = 0, 6, {}
while at <= #ARGV do
  local stream, entry, id, attempt, state = unpack(ARGV, at, at + 4)
  local first, last = at + 6, at + 5 + ARGV[at + 5]
  at = last + 1
  local key = ARGV[4] .. id
  local name = KEYS[2 + stream]
  entries[name] = entries[name] or {}
  table.insert(entries[name], entry)
  local job = redis.call('HMGET', key, 'state', 'attempts', 'callback')
  if job[1] == 'running' and job[2] == attempt then
    redis.call('HSET', key, 'state', state, 'finished', ARGV[3], unpack(ARGV, first, last))
    redis.call('HDEL', key, 'input')
    redis.call('EXPIRE', key, ARGV[2])
    if state == 'failed' then
      redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'id', id)
    end
    if job[3] and job[3] ~= '' then redis.call('ZADD', KEYS[1], ARGV[3], id) end
    redis.call('PUBLISH', ARGV[5] .. id, state)
    written = written + 1
  end
end
for name, list in pairs(entries) do
  redis.call('XACK', name, ARGV[1], unpack(list))
  redis.call('XDEL', name, unpack(list))
end
return written
"""

# Puts a job back for later. The attempt counts, or not where the backend was only too busy.
# KEYS: job, stream, delayed.
# ARGV: group, entry, attempt, due, member, event prefix, id, detail, counted (0/1)
RETRY = """
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
local job = redis.call('HMGET', KEYS[1], 'state', 'attempts')
if job[1] ~= 'running' or job[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'queued', 'detail', ARGV[8],
  'attempts', tonumber(ARGV[3]) - 1 + tonumber(ARGV[9]))
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[5])
redis.call('PUBLISH', ARGV[6] .. ARGV[7], 'queued')
return 1
"""

# A worker that stops hands a job back without counting the attempt.
# KEYS: job, stream. ARGV: group, entry, attempt, id
RELEASE = """
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
local job = redis.call('HMGET', KEYS[1], 'state', 'attempts')
if job[1] ~= 'running' or job[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'queued', 'attempts', tonumber(ARGV[3]) - 1)
redis.call('XADD', KEYS[2], '*', 'id', ARGV[4])
return 1
"""

# KEYS: delayed, high, normal, low, alone. ARGV: now, most. Members are `<priority>:<id>`.
PROMOTE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do
  redis.call('ZREM', KEYS[1], member)
  local priority, id = string.match(member, '^(%a+):(.+)$')
  local stream = KEYS[3]
  if priority == 'high' then stream = KEYS[2] elseif priority == 'low' then stream = KEYS[4]
  elseif priority == 'alone' then stream = KEYS[5] end
  redis.call('XADD', stream, '*', 'id', id)
end
return #due
"""

# KEYS: job, callbacks. ARGV: now, result ttl, event prefix, id. Answers the state it found.
CANCEL = """
local job = redis.call('HMGET', KEYS[1], 'state', 'callback')
if not job[1] then return '' end
if job[1] == 'queued' or job[1] == 'running' then
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', ARGV[1])
  redis.call('HDEL', KEYS[1], 'input')
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  if job[2] and job[2] ~= '' then redis.call('ZADD', KEYS[2], ARGV[1], ARGV[4]) end
  redis.call('PUBLISH', ARGV[3] .. ARGV[4], 'cancelled')
  return 'done'
end
return job[1]
"""

# KEYS: job. ARGV: attempt, progress, event prefix, id
PROGRESS = """
local job = redis.call('HMGET', KEYS[1], 'state', 'attempts')
if job[1] ~= 'running' or job[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'progress', ARGV[2])
redis.call('PUBLISH', ARGV[3] .. ARGV[4], 'running')
return 1
"""

# Take what is due and hide it until `until`, so that one worker at a time tells it.
# KEYS: set. ARGV: now, until, most
LEASE_DUE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(due) do redis.call('ZADD', KEYS[1], ARGV[2], member) end
return due
"""
