<?php
/**
 * Pushes one line into a room.
 *
 *     php push.php "Order 17 was paid"            into the default room
 *     php push.php lobby "Order 17 was paid"      into a room by name
 *
 * The line goes to REDIS_HOST:REDIS_PORT, by default 127.0.0.1:6380: the door that Roomcast keeps open where no
 * Redis is set up. With a Redis between the two, name its address; nothing else changes.
 */

declare(strict_types=1);

/** The list that Roomcast takes from: `queue.list` in config.toml. */
const QUEUE = 'message_queue';
const TIMEOUT_SECONDS = 3.0;

function fail(string $text, int $status): never
{
    fwrite(STDERR, "push: $text\n");
    exit($status);
}

/** Reads the command line: [room] text. */
function message(array $arguments): array
{
    if (count($arguments) < 1 || count($arguments) > 2) {
        fail('usage: php push.php [room] text', 2);
    }
    $line = ['type' => 'message', 'content' => array_pop($arguments)];
    if ($arguments !== []) {
        $line['room'] = $arguments[0];
    }
    return $line;
}

if (!class_exists(Redis::class)) {
    fail('the redis extension is missing; on Debian: apt-get install php-redis', 69);
}
$line = message(array_slice($argv, 1));
// A backend that may repeat a push (a retry, a job run twice) sends the same id again: Roomcast keeps it once.
$line['id'] = bin2hex(random_bytes(8));
try {
    $json = json_encode($line, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE);
} catch (JsonException $error) {
    fail("the text cannot be sent: {$error->getMessage()} (is it UTF-8?)", 2);
}

$host = getenv('REDIS_HOST') ?: '127.0.0.1';
$port = (int) (getenv('REDIS_PORT') ?: 6380);
$redis = new Redis();
try {
    // The warning of php-redis says no more than the exception; ours names the way out.
    if (!@$redis->connect($host, $port, TIMEOUT_SECONDS, null, 0, TIMEOUT_SECONDS)) {
        throw new RedisException('no connection');
    }
} catch (RedisException $error) {
    fail("cannot reach $host:$port ({$error->getMessage()}); is roomcast running, and is queue.door.listen set to it?", 69);
}

try {
    $length = $redis->lPush(QUEUE, $json);
} catch (RedisException $error) {
    fail("$host:$port refused the line: {$error->getMessage()}", 1);
}
if ($length === false) {
    fail("$host:$port refused the line: " . ($redis->getLastError() ?? 'no reason given'), 1);
}
echo 'pushed ', $line['id'], ' into ', $line['room'] ?? 'the default room', "\n";
