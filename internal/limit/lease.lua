-- Takes a pack of tokens out of a bucket, in one step.
--
-- The bucket is a hash: "tokens" at the time "at", and one field per living lease, "tokens-not-yet-spent end". What processes hold
-- counts as being in the bucket still, so that tokens in the bucket and tokens held together never exceed the burst. A lease
-- counts until its process comes back for another or until it ends, whether or not its tokens were spent. Times are microseconds of
-- this server's clock.
local rate, burst = tonumber(ARGV[1]) / 1000000, tonumber(ARGV[2])
local want, least, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local term, name, previous = tonumber(ARGV[6]), ARGV[7], ARGV[8]

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local tokens, at, held, leases = burst, now, 0, {}
local bucket = redis.call('HGETALL', KEYS[1])
for i = 1, #bucket, 2 do
  local field, value = bucket[i], bucket[i + 1]
  if field == 'tokens' then
    tokens = tonumber(value)
  elseif field == 'at' then
    at = math.min(now, tonumber(value)) -- the clock may have been set back
  else
    local n, ends = string.match(value, '^(%d+) (%d+)$')
    leases[#leases + 1] = {field, tonumber(n), tonumber(ends)}
    held = held + tonumber(n)
  end
end
table.sort(leases, function(a, b) return a[3] < b[3] end)

local function refill(to)
  if to > at then
    tokens, at = tokens + (to - at) * rate, to
  end
  tokens = math.max(0, math.min(tokens, burst - held))
end

-- What a lease held makes room in the bucket from its end on, not before.
local returned, first = 0, nil
for _, lease in ipairs(leases) do
  if lease[3] <= now then
    refill(lease[3])
    held = held - lease[2]
    redis.call('HDEL', KEYS[1], lease[1])
  elseif lease[1] == previous then
    returned = lease[2]
    redis.call('HDEL', KEYS[1], previous)
  elseif not first then
    first = lease[3]
  end
end
refill(now)
held = held - returned

-- A quarter of what is left, so that others find something as well; where tokens come fast, at least what comes in a moment.
local free, grant, wait = math.floor(tokens), 0, 0
if free >= 1 then
  grant = math.max(1, math.min(want, most, free, math.max(least, math.floor(free / 4))))
  tokens = tokens - grant
  if grant > 1 then -- one is spent by the request that asks
    redis.call('HSET', KEYS[1], name, string.format('%d %.0f', grant - 1, now + term))
  end
else
  wait = math.ceil((1 - tokens) / rate)
  if burst - held < 1 and first then
    wait = first - now + math.ceil(1 / rate)
  end
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', at))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst / rate + term) / 1000) + 1000)
return {grant, wait}
