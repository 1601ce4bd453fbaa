-- Gives places to messages of many rooms of one partition, and sends them to the nodes that have joined.
-- KEYS 1 fence, 2 feed, 3 feed count, 4 what leaves, 5 count of what leaves; then per room: meta, history, dedup 0, dedup 1, changes
-- ARGV 1 fence, 2 epoch, 3 session channel, 4 inbox channels without the node, 5 most entries in the feed (0: no feed),
--      6 whether rooms are known to an archive, 7 number of rooms, 8 publish command, 9 numsub command,
--      10 most entries of what leaves;
--      per room: name behind its length, history length, dedup window, life of meta, life of history (both ms, 0: for ever), mark,
--      whether its entries leave
--      then per message: number of its room, body
-- Says per message: + new or = known before "offset:epoch:ts[:feed id]", g: what it is about is gone, u: room not loaded
local call, format, unpack_bytes, pack_bytes = redis.call, string.format, struct.unpack, struct.pack
local fence = call('GET', KEYS[1])
if fence ~= ARGV[1] then return {'F', fence or ''} end
-- Subscriptions belong to one server process and are never replicated: OUR repaired session lives on THIS server.
if call('PUBSUB', ARGV[9], ARGV[3])[2] == 0 then return {'S', fence} end
local epoch, is_fed = ARGV[2], ARGV[5] ~= '0'
if is_fed and call('XLEN', KEYS[2]) >= tonumber(ARGV[5]) then return {'A', fence} end
local time = call('TIME')
local now, epoch_number, epoch_field = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(epoch), 'e' .. epoch
-- A number that becomes text costs Redis more than a look into a hash, so what is text stays text.
local rooms, a = {}, 11
for r = 1, tonumber(ARGV[7]) do
  local k = 6 + (r - 1) * 5
  local m = call('HMGET', KEYS[k], 's', 'i', 'd', epoch_field)
  local turned, window, mark, which, start = m[3], tonumber(ARGV[a + 2]), ARGV[a + 5] == '1', 0, now
  if turned then which, start = string.byte(turned) - 48, tonumber(string.sub(turned, 3)) end
  -- Redis' own clock turns the buckets, so that all nodes agree on which is which.
  if not turned or now - start >= window or start > now + window then
    if turned then
      which = 1 - which
      call('UNLINK', KEYS[k + 2 + which])
    end
    call('HSET', KEYS[k], 'd', format('%d:%.0f', which, now))
    mark = true
  end
  rooms[r] = {
    meta = KEYS[k], hist = KEYS[k + 1], cur = KEYS[k + 2 + which], prev = KEYS[k + 3 - which], changes = KEYS[k + 4],
    known = m[1], who = m[2], begun = m[4], mark = mark, count = 0, asked = 0, noted = 0, at = a,
  }
  a = a + 7
end
-- Which are new is settled before anything is written, so that a room's ids are asked for and written down at once.
-- What is known of the message n: its room, body, kind, server time, the place it is about, id.
local total, room_of, bodies, kinds, times, about, ids = 0, {}, {}, {}, {}, {}, {}
while ARGV[a] do
  local room, body = rooms[tonumber(ARGV[a])], ARGV[a + 1]
  local kind, _, ts, of, id_bytes = unpack_bytes('>BBI8I8I2', body, 2)
  local id = string.sub(body, 22, 21 + id_bytes)
  total = total + 1
  room_of[total], bodies[total], kinds[total], times[total], ids[total] = room, body, kind, ts, id
  if kind ~= 1 then about[total] = format('%.0f', of) end
  room.asked = room.asked + 1
  -- Most rooms have one message; only those with more need lists.
  if room.asked == 1 then
    room.id = id
  elseif room.asked == 2 then
    room.ids = {room.id, id}
  else
    room.ids[room.asked] = id
  end
  a = a + 2
end
for _, room in ipairs(rooms) do
  if room.ids then
    room.old, room.first, room.notes = {}, {}, {}
    local found, missing = call('HMGET', room.cur, unpack(room.ids)), {}
    for n, id in ipairs(room.ids) do
      if found[n] then room.old[id] = found[n] else missing[#missing + 1] = id end
    end
    -- Most rooms have no older bucket.
    if #missing > 0 and call('EXISTS', room.prev) == 1 then
      found = call('HMGET', room.prev, unpack(missing))
      for n, id in ipairs(missing) do
        if found[n] then room.old[id] = found[n] end
      end
    end
  elseif room.id then
    room.only = call('HGET', room.cur, room.id) or call('HGET', room.prev, room.id)
  end
end
local function note(room, id, value)
  room.noted = room.noted + 2
  if room.notes then
    room.notes[room.noted - 1], room.notes[room.noted] = id, value
  else
    room.note = value
  end
end
-- The place of message n among the new ones of its room, 0 for none; messages that say an id again: the first that said it.
local out, places, again = {}, {}, {}
for n = 1, total do
  local room, id, of = room_of[n], ids[n], about[n]
  local old = room.only
  if room.old then old = room.old[id] end
  local change = of and (room.gone and room.gone[of] or call('HGET', room.changes, of))
  if old then
    -- Written again, so that a wait for replicas waits for its first place too.
    note(room, id, old)
    out[n] = '=' .. old
  elseif room.first and room.first[id] then
    again[n] = room.first[id]
  elseif ARGV[6] == '1' and not room.known then
    out[n] = 'u'
  elseif change and string.byte(change) == 45 then
    out[n] = 'g'
  else
    if room.first then room.first[id] = n end
    places[n] = 0
    if string.byte(bodies[n]) ~= 80 then
      room.count = room.count + 1
      places[n] = room.count
      if kinds[n] == 3 then
        room.gone = room.gone or {}
        room.gone[of] = '-'
      end
    end
  end
end
for _, room in ipairs(rooms) do
  if room.count > 0 then
    room.before = call('HINCRBY', room.meta, 's', format('%d', room.count)) - room.count
    if not room.begun then call('HSETNX', room.meta, epoch_field, format('%d', room.before + 1)) end
    if not room.known then room.mark = true end
  end
end
local boxes, order, values = {}, {}, {}
for n = 1, total do
  local room, place = room_of[n], places[n]
  if again[n] then
    out[n] = '=' .. values[again[n]]
  elseif place then
    local body, kind, seq, at = bodies[n], kinds[n], 0, '0'
    if place > 0 then
      seq = room.before + place
      at = format('%d', seq)
    end
    local value = format('%s:%s:%d', at, epoch, times[n])
    if place > 0 then
      local place_id = at .. '-' .. epoch
      if place == room.count then
        call('XADD', room.hist, 'MAXLEN', '~', ARGV[room.at + 1], place_id, 'b', body)
      else
        call('XADD', room.hist, place_id, 'b', body)
      end
      if kind ~= 1 then
        if kind == 2 then call('HSET', room.changes, about[n], at) end
        if kind == 3 then call('HSET', room.changes, about[n], '-' .. at) end
        if kind == 2 or kind == 3 then
          local length = tonumber(ARGV[room.at + 1])
          room.mark = true
          if call('HLEN', room.changes) > 4 * length then
            for _, changed in ipairs(call('HKEYS', room.changes)) do
              if tonumber(changed) + 2 * length < seq then call('HDEL', room.changes, changed) end
            end
          end
        end
      end
      if is_fed then
        local fed = epoch .. '-' .. format('%d', call('INCR', KEYS[3]))
        call('XADD', KEYS[2], fed, 'r', string.sub(ARGV[room.at], 3), 'o', at, 'e', epoch, 'b', body)
        value = value .. ':' .. fed
      end
      if ARGV[room.at + 6] == '1' then
        local left = epoch .. '-' .. format('%d', call('INCR', KEYS[5]))
        call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[10], left, 'r', string.sub(ARGV[room.at], 3), 'o', at, 'e', epoch, 'b', body)
      end
    end
    values[n] = value
    note(room, ids[n], value)
    out[n] = '+' .. value
    if room.who then
      local name, box = ARGV[room.at], boxes[room.who]
      local said = pack_bytes('>BI4c0I8I8c0', 101, #name + 16 + #body, name, seq, epoch_number, body)
      if not box then
        boxes[room.who] = {said}
        order[#order + 1] = room.who
      else
        box[#box + 1] = said
      end
    end
  end
end
for _, room in ipairs(rooms) do
  if room.noted > 0 then
    if room.notes then
      call('HSET', room.cur, unpack(room.notes))
    else
      call('HSET', room.cur, room.id, room.note)
    end
    if call('PTTL', room.cur) < 0 then call('PEXPIRE', room.cur, 2 * ARGV[room.at + 2]) end
    if room.mark then
      local meta_life, hist_life = ARGV[room.at + 3], ARGV[room.at + 4]
      if meta_life ~= '0' then
        call('PEXPIRE', room.meta, meta_life)
        call('PEXPIRE', room.changes, meta_life)
      end
      if hist_life ~= '0' then call('PEXPIRE', room.hist, hist_life) end
    end
  end
end
for _, who in ipairs(order) do
  local message, left, away = table.concat(boxes[who]), {}, false
  for node in string.gmatch(who, '[^,]+') do
    -- Nobody listens: that node is gone, or joins its rooms again when it is back.
    if call(ARGV[8], ARGV[4] .. node, message) == 0 then away = true else left[#left + 1] = node end
  end
  if away then
    for _, room in ipairs(rooms) do
      if room.who == who then
        if #left > 0 then call('HSET', room.meta, 'i', table.concat(left, ',')) else call('HDEL', room.meta, 'i') end
      end
    end
  end
end
return out
