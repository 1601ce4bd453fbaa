<?php
/**
 * Pushes with Predis, and checks every answer. Arguments and output as in push.php.
 */

declare(strict_types=1);

require 'Predis/Autoloader.php';
Predis\Autoloader::register();

[, $host, $port, $password, $kind] = $argv;

function check(bool $right, string $what): void
{
    if (!$right) {
        fwrite(STDERR, "push_predis.php: $what\n");
        exit(1);
    }
}

$parameters = ['host' => $host, 'port' => (int) $port];
$client = new Predis\Client($password === '' ? $parameters : $parameters + ['password' => $password]);
check($client->lpush('message_queue', ['{"content":"predis 1"}']) >= 1, 'LPUSH answers with a length');
check($client->rpush('message_queue', ['{"room":"orders","content":"predis 2"}']) >= 1, 'RPUSH answers with a length');
$answers = $client->pipeline(function ($pipeline) {
    $pipeline->lpush('message_queue', ['"predis 3"']);
    $pipeline->lpush('message_queue', ['"predis 4"']);
});
check(count($answers) === 2, 'a pipeline has two answers');
$answers = $client->transaction(function ($transaction) {
    $transaction->lpush('message_queue', ['"predis 5"']);
});
check(count($answers) === 1, 'a transaction has an answer');
echo "lobby\t\"predis 1\"\norders\t\"predis 2\"\nlobby\t\"predis 3\"\nlobby\t\"predis 4\"\nlobby\t\"predis 5\"\n";

if ($kind === 'door') {
    check($client->publish('app_room:news', '{"content":"predis 6"}') === 1, 'PUBLISH answers 1');
    echo "news\t\"predis 6\"\n";
    try {
        $client->lpush('message_queue', ['{"room":"a*","content":1}']);
        check(false, 'a bad room is refused');
    } catch (Predis\Response\ServerException $error) {
        check(str_contains($error->getMessage(), 'bad-room'), 'the error says why: ' . $error->getMessage());
    }
}
