<?php
/**
 * Uses examples/php/Roomcast.php as a backend would, and checks every answer.
 *
 *     php roomcast.php URL KEY QUEUE curl|socket extension|own
 *
 * QUEUE is the address of the server's door. In the lobby of a new server are ann and bob. Prints what went through.
 */

declare(strict_types=1);

require __DIR__ . '/../../examples/php/Roomcast.php';

[, $url, $key, $queue, $transport, $kind] = $argv;

function is(mixed $wanted, mixed $got, string $what): void
{
    if ($wanted !== $got) {
        fwrite(STDERR, "roomcast.php: $what: wanted " . json_encode($wanted) . ', got ' . json_encode($got) . "\n");
        exit(1);
    }
}

function refuses(string $why, int $status, callable $call): RoomcastException
{
    try {
        $call();
    } catch (RoomcastException $error) {
        is([$why, $status], [$error->why, $error->getCode()], "the refusal ({$error->getMessage()})");
        return $error;
    }
    fwrite(STDERR, "roomcast.php: $why did not come\n");
    exit(1);
}

$roomcast = new Roomcast($url, $key, transport: $transport);

// Saying: repeats are harmless, places are dense.
$place = $roomcast->publish('lobby', ['text' => 'größe & <b>', 'n' => 1.0], id: 'p-1', user: 'shop');
is(['lobby', 1, false], [$place['r'], $place['s'], $place['dup']], 'publish');
is([1, true], array_values(array_intersect_key($roomcast->publish('lobby', 'again', id: 'p-1', user: 'shop'), ['s' => 0, 'dup' => 0])), 'a repeat');
$told = $roomcast->batch([
    ['r' => 'lobby', 'd' => 'two', 'id' => 'b-1'],
    ['r' => 'a*', 'd' => 'nowhere', 'id' => 'b-2'],
    ['r' => 'ops / ä', 'd' => ['deep' => [1, 2]], 'id' => 'b-3'],
]);
is([2, 'bad-room', 2, 1], [$told[0]['s'], $told[1]['why'], $told[1]['line'], $told[2]['s']], 'batch');
$told = $roomcast->broadcast(['lobby', 'ops / ä'], 'maintenance at 18:00', id: 'm-1');
is([3, 2], [$told['lobby']['s'], $told['ops / ä']['s']], 'broadcast');

// Looking.
is(['lobby' => 2], iterator_to_array($roomcast->rooms()), 'rooms');
is([], iterator_to_array($roomcast->rooms('nothing')), 'rooms with a prefix');
$state = $roomcast->room('lobby');
is([3, 1, 2, 2], [$state['s'], $state['first'], $state['sessions'], $state['users']], 'room');
is(null, $roomcast->room('never'), 'a room that is none');
is(['ann' => null, 'bob' => null], iterator_to_array($roomcast->who('lobby')), 'who');
$page = $roomcast->log('ops / ä', after: 0, n: 1);
is([['deep' => [1, 2]], true], [$page['list'][0]['d'], $page['more']], 'log');
is([1, 2], array_column($roomcast->log('lobby', before: 3)['list'], 's'), 'log before');
is(null, $roomcast->log('never'), 'the log of no room');
$trace = $roomcast->trace('ops / ä', 1);
is(['msg', 'api', [], false], [$trace['t'], $trace['origin']['door'], $trace['list'], $trace['more']], 'trace');
is([['u' => 'eve', 'state' => 'not joined']], $roomcast->trace('lobby', 1, 'eve')['list'], 'trace of a user');
is([null, null], [$roomcast->trace('lobby', 99), $roomcast->trace('never', 1)], 'trace of nothing');
is([true, false], [$roomcast->erase('lobby', 2, 'mod'), $roomcast->erase('lobby', 2)], 'erase');

// Rules.
is(null, $roomcast->mute('ops / ä', 'eve')['until'], 'mute for good');
is(true, $roomcast->ban('ops / ä', 'eve', 600)['until'] > 1000 * time(), 'ban');
is(0, $roomcast->freeze('ops / ä', 0)['until'], 'freeze');
is(5, $roomcast->slow('ops / ä', 5)['every'], 'slow');
is('moderator', $roomcast->role('ops / ä', 'ann', 'moderator')['role'], 'role');
$rules = $roomcast->rules('ops / ä');
is([[['u' => 'eve', 'until' => null]], 'eve', null, 5, ['ann' => 'moderator']],
    [$rules['muted'], $rules['banned'][0]['u'], $rules['frozen'], $rules['slow'], $rules['roles']], 'rules');
refuses('bad-json', 400, fn () => $roomcast->role('lobby', 'ann', 'king'));

// Orders.
$roomcast->join('bob', 'staff', 'ops / ä');
for ($try = 0; ($roomcast->room('staff')['sessions'] ?? 0) !== 1; $try++) {
    is(true, $try < 1000, 'bob comes into the room');
    usleep(5000);
}
$roomcast->leave('bob', 'staff');
$roomcast->disconnect('ann', why: 'banned');

// Refusals say why; a key that is wrong is never tried again.
refuses('bad-room', 400, fn () => $roomcast->publish('a*', 1));
refuses('bad-key', 401, fn () => (new Roomcast($url, 'a-wrong-key', transport: $transport))->publish('lobby', 1, id: 'x'));
$began = microtime(true);
$nobody = new Roomcast('http://127.0.0.1:1', timeout: 0.5, retries: 2, transport: $transport);
refuses('unreachable', 0, fn () => $nobody->publish('lobby', 1, id: 'x-1'));
is(true, microtime(true) - $began > 0.15, 'with an id it was tried again');
$stubborn = new Roomcast('http://127.0.0.1:1', timeout: 0.5, retries: 20, transport: $transport);
$began = microtime(true);
refuses('unreachable', 0, fn () => $stubborn->publish('lobby', 1));
is(true, microtime(true) - $began < 20, 'without an id it was not, or it would have taken half a minute');

// The queue.
$pushes = new RoomcastQueue($queue, extension: $kind === 'extension');
$pushes->push('lobby', ['text' => 'from the queue'], id: 'q-1', user: 'shop');
$pushes->push('lobby', ['text' => 'from the queue'], id: 'q-1', user: 'shop');
$pushes->push(null, 'into the default room');
$list = $roomcast->log('lobby', after: 4)['list'];
is([5, 6], array_column($list, 's'), 'pushes, the repeated one once');
is([['text' => 'from the queue'], 'into the default room'], array_column($list, 'd'), 'what was pushed');
refuses('unreachable', 0, fn () => (new RoomcastQueue('redis://127.0.0.1:1', retries: 0, extension: $kind === 'extension'))->push('lobby', 1));
try {
    new RoomcastQueue('http://127.0.0.1');
    is(true, false, 'an address of another kind is refused');
} catch (InvalidArgumentException) {
}
echo "all calls by $transport, pushes by $kind\n";
