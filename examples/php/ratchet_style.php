<?php
/**
 * A chat with a helpful backend, as somebody writes it who comes from Ratchet: the same four methods, called by HTTP
 * instead of by a loop of one's own, so that any PHP server will do.
 *
 *     export ROOMCAST_HOOKS_SECRET=whsec_$(openssl rand -base64 32)
 *     php -S 127.0.0.1:8081 examples/php/ratchet_style.php
 *     roomcast serve --set hooks.url=http://127.0.0.1:8081/ --set hooks.private_addresses=true \
 *         --set "hooks.secret=$ROOMCAST_HOOKS_SECRET"
 *
 * Say "!time" in a room of the demo page (http://127.0.0.1:8080). To be asked as well, add
 * --set hooks.ask.publish=http://127.0.0.1:8081/ and --set server.workers=2 and say something rude.
 */

declare(strict_types=1);

require __DIR__ . '/RoomcastHooks.php';

final class Chat extends RoomcastHooks
{
    public function onOpen(RoomcastPeer $conn): void
    {
        error_log("New connection! ({$conn->session}, {$conn->user})");
    }

    public function onMessage(RoomcastPeer $from, mixed $msg): void
    {
        if ($msg === '!time') {
            $from->send('it is ' . gmdate('H:i') . ' UTC');
        }
        if ($msg === '!bye') {
            $from->close('as you wished');
        }
    }

    public function onClose(RoomcastPeer $conn, int $code): void
    {
        error_log("Connection {$conn->session} has disconnected ($code)");
    }

    public function onError(RoomcastPeer $conn, string $why): void
    {
        error_log("An error has occurred: $why");
    }

    public function mayJoin(array $question): bool|string
    {
        return $question['r'] === 'cellar' ? 'the cellar is closed' : true;
    }

    public function mayPublish(array $question): bool|string|array
    {
        $text = $question['d'];
        if (!is_string($text)) {
            return true;
        }
        if (strlen($text) > 280) {
            return 'at most 280 characters';
        }
        return ['d' => str_ireplace('darn', '****', $text)];
    }
}

$server = getenv('ROOMCAST_URL') ?: 'http://127.0.0.1:8080';
$chat = new Chat(getenv('ROOMCAST_HOOKS_SECRET') ?: '', new Roomcast($server, getenv('ROOMCAST_KEY') ?: null), 'helper');
$chat->serve();
