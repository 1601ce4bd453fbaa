<?php
/**
 * Pushes with php-redis as a backend would, and checks every answer.
 *
 *     php push.php HOST PORT PASSWORD door|redis
 *
 * Prints one line for each message that the rooms must hear: room, a tab, the data.
 */

declare(strict_types=1);

const LIST_NAME = 'message_queue';

[, $host, $port, $password, $kind] = $argv;

function check(bool $right, string $what, mixed $got): void
{
    if (!$right) {
        fwrite(STDERR, "push.php: $what, got " . var_export($got, true) . "\n");
        exit(1);
    }
}

function expect_heard(string $room, mixed $data): void
{
    echo $room, "\t", json_encode($data, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES), "\n";
}

$redis = new Redis();
$redis->connect($host, (int) $port, 3.0, null, 0, 5.0);
if ($password !== '') {
    check($redis->auth($password) === true, 'AUTH is accepted', $redis->getLastError());
}
check($redis->ping() == true, 'PING is answered', $redis->getLastError());
check($redis->select(0) === true, 'SELECT is answered', $redis->getLastError());

// The four lines of the README.
$length = $redis->lPush(LIST_NAME, json_encode(['type' => 'message', 'content' => 'This is a real-time message.']));
check($length >= 1, 'LPUSH answers with a length', $length);
expect_heard('lobby', 'This is a real-time message.');
$redis->lPush(LIST_NAME, json_encode(['room' => 'orders', 'id' => 'php-17', 'user' => 'shop', 'content' => ['text' => 'paid']]));
expect_heard('orders', ['text' => 'paid']);

// Numbers as names, as PHP writes integers.
$redis->lPush(LIST_NAME, json_encode(['room' => 17, 'user' => 5, 'content' => 'grüße'], JSON_UNESCAPED_UNICODE));
expect_heard('17', 'grüße');

// Several values in one command, a pipeline, and a transaction.
$length = $redis->lPush(LIST_NAME, '"a"', '"b"', '"c"');
check($length >= 3, 'LPUSH of three answers with at least 3', $length);
$answers = $redis->multi(Redis::PIPELINE)->lPush(LIST_NAME, '"d"')->lPush(LIST_NAME, '"e"')->exec();
check(count($answers) === 2, 'a pipeline has two answers', $answers);
$answers = $redis->multi()->lPush(LIST_NAME, '"f"')->lPush(LIST_NAME, '"g"')->exec();
check(is_array($answers) && count($answers) === 2, 'a transaction has two answers', $answers);
foreach (['a', 'b', 'c', 'd', 'e', 'f', 'g'] as $text) {
    expect_heard('lobby', $text);
}

if ($kind === 'door') {
    check($redis->publish('room:news', '{"content":"hi"}') === 1, 'PUBLISH answers 1', $redis->getLastError());
    expect_heard('news', 'hi');
    $id = $redis->xAdd(LIST_NAME, '*', ['payload' => '{"content":"stream"}']);
    check(is_string($id) && preg_match('/^\d+-\d+$/', $id) === 1, 'XADD answers with an id', $id);
    expect_heard('lobby', 'stream');

    // What Laravel's redis broadcaster sends.
    $script = "for i = 2, #ARGV do\n  redis.call('publish', ARGV[i], ARGV[1])\nend";
    $payload = json_encode(['event' => 'OrderPaid', 'data' => ['id' => 17], 'socket' => null]);
    $redis->eval($script, [$payload, 'app_one', 'app_two'], 0);
    check($redis->getLastError() === null, 'the broadcast is taken', $redis->getLastError());
    expect_heard('one', ['id' => 17]);
    expect_heard('two', ['id' => 17]);

    // Errors say what to do.
    check($redis->lPush(LIST_NAME, 'no json') === false, 'what is no JSON is refused', true);
    check(str_contains((string) $redis->getLastError(), 'not-json'), 'the error says why', $redis->getLastError());
    $redis->clearLastError();
    check($redis->lPush('another', '1') === false, 'an unknown list is refused', true);
    check(str_contains((string) $redis->getLastError(), LIST_NAME), 'the error names the lists', $redis->getLastError());
    $redis->clearLastError();
    check($redis->get('x') === false, 'GET is refused', true);
    check(str_contains((string) $redis->getLastError(), 'LPUSH'), 'the error names what is taken', $redis->getLastError());
    check($redis->lLen(LIST_NAME) === 0, 'nothing waits', $redis->getLastError());

    // A Cluster client finds a cluster of one.
    $cluster = new RedisCluster(null, ["$host:$port"], 3.0, 5.0, false, $password === '' ? null : $password);
    check($cluster->lPush(LIST_NAME, '"by cluster"') === 1, 'RedisCluster pushes', null);
    expect_heard('lobby', 'by cluster');
}
