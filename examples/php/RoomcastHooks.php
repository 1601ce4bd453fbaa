<?php
/**
 * What Roomcast tells and asks a PHP backend: checks the signature, and calls a method for each event. One file,
 * PHP 8.1 or later, nothing to install; beside it lies Roomcast.php, by which a backend answers. Copy both.
 *
 *     require 'RoomcastHooks.php';
 *     (new class(getenv('ROOMCAST_HOOKS_SECRET'), new Roomcast()) extends RoomcastHooks {
 *         public function onMessage(RoomcastPeer $from, mixed $msg): void { $from->send("you said $msg"); }
 *     })->serve();
 *
 * Events come in the order in which they happened and at least once: after a failure a batch comes again, so each event
 * has a `key`, and what is sent by a peer carries an id made of it, so that a repeat says nothing twice.
 */

declare(strict_types=1);

require_once __DIR__ . '/Roomcast.php';

/** Whom an event is about. What comes from a session has its `session`, what comes from a room has its `room`. */
final class RoomcastPeer
{
    /** What is sent in answer to one event. */
    private int $sent = 0;

    /**
     * @param ?string $user     who; none when a backend has pushed without a name
     * @param ?string $session  tells one stay of a user from the others
     * @param ?string $room     where it was said
     * @param array $event      the whole event, as it came
     */
    public function __construct(
        private readonly Roomcast $roomcast,
        private readonly string $name,
        public readonly ?string $user,
        public readonly ?string $session,
        public readonly ?string $room,
        public readonly array $event,
    ) {
    }

    /** Says something where it came from: in the room, or in the inbox of the user who has come. */
    public function send(mixed $data): void
    {
        $room = $this->room ?? "@{$this->user}";
        $id = 'hook-' . substr(hash('sha256', $this->event['key'] . '#' . $this->sent++), 0, 40);
        $this->roomcast->publish($room, $data, id: $id, user: $this->name);
    }

    /** Sends all sessions of the user away. */
    public function close(string $why = 'closed'): void
    {
        $this->roomcast->disconnect($this->user, why: $why);
    }
}

/** A backend. Override what you need; what is not overridden does nothing, and says yes. */
abstract class RoomcastHooks
{
    /** A request that is older or newer than this, in seconds, may be an old one that somebody sends again. */
    private const TOLERANCE = 300;
    private const PREFIX = 'whsec_';

    /**
     * @param string $secret  the server's `hooks.secret`
     * @param string $name    the user in whose name it speaks; what this user says does not come back to it
     */
    public function __construct(
        #[SensitiveParameter] private readonly string $secret,
        protected readonly Roomcast $roomcast,
        private readonly string $name = 'backend',
    ) {
    }

    /** Somebody has come. */
    public function onOpen(RoomcastPeer $conn): void
    {
    }

    /** Something was said in a room. */
    public function onMessage(RoomcastPeer $from, mixed $msg): void
    {
    }

    /** Somebody has gone. `$code` is a WebSocket close code, 1006 where the link was cut. */
    public function onClose(RoomcastPeer $conn, int $code): void
    {
    }

    /** Somebody's connection failed; `onClose` follows. */
    public function onError(RoomcastPeer $conn, string $why): void
    {
    }

    /** An edit, a delete or a reaction: `$event['t']` is `edit`, `del` or `react`. */
    public function onChange(RoomcastPeer $from, array $event): void
    {
    }

    /**
     * May somebody come in? True for yes, words for no, `['info' => …, 'rooms' => […]]` for yes with changes.
     *
     * @param array $question  `u`, `info`, `address`, `uri`, `headers`
     */
    public function mayConnect(array $question): bool|string|array
    {
        return true;
    }

    /** May somebody enter a room? `$question` has `u` and `r`. */
    public function mayJoin(array $question): bool|string
    {
        return true;
    }

    /** May something be said? `$question` has `u`, `r` and `d`, and `of` when it is an edit. `['d' => …]` changes it. */
    public function mayPublish(array $question): bool|string|array
    {
        return true;
    }

    /** Deals with the request that this script was called for, and answers it. */
    final public function serve(): void
    {
        try {
            [$status, $answer] = $this->answer((string) file_get_contents('php://input'), [
                'id' => $_SERVER['HTTP_WEBHOOK_ID'] ?? '',
                'timestamp' => $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '',
                'signature' => $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '',
            ]);
        } catch (Throwable $failure) {
            // The batch comes again, until it goes well or is too old.
            error_log((string) $failure);
            [$status, $answer] = [500, ['error' => 'see the log of the backend']];
        }
        $body = json_encode((object) $answer, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE);
        http_response_code($status);
        header('Content-Type: application/json');
        // php -S sends none by itself, and an answer without it does not count.
        header('Content-Length: ' . strlen($body));
        echo $body;
    }

    /**
     * The same for a framework that has the request in hand.
     *
     * @param array $headers  `id`, `timestamp` and `signature`: what `webhook-id` and so on say
     * @return array{int, array}  status and body
     */
    final public function answer(string $body, array $headers): array
    {
        if (!$this->isSigned($body, $headers)) {
            return [401, ['error' => 'the signature is not that of our secret']];
        }
        $request = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
        if (isset($request['event'])) {
            return [200, $this->judge($request)];
        }
        foreach ($request['data']['events'] as $event) {
            $this->hear($event);
        }
        return [200, []];
    }

    /** Standard Webhooks 1.0.0: HMAC-SHA256 over `id.timestamp.body`, one of several signatures is enough. */
    private function isSigned(string $body, array $headers): bool
    {
        if (abs(time() - (int) $headers['timestamp']) > self::TOLERANCE) {
            return false;
        }
        foreach (preg_split('/\s+/', $this->secret, -1, PREG_SPLIT_NO_EMPTY) as $secret) {
            $key = base64_decode(substr($secret, strlen(self::PREFIX)), true);
            if (!str_starts_with($secret, self::PREFIX) || $key === false || $key === '') {
                throw new InvalidArgumentException('the secret of hooks is whsec_ and base64');
            }
            $text = "{$headers['id']}.{$headers['timestamp']}.$body";
            $expected = 'v1,' . base64_encode(hash_hmac('sha256', $text, $key, true));
            foreach (explode(' ', $headers['signature']) as $signature) {
                if (hash_equals($expected, $signature)) {
                    return true;
                }
            }
        }
        return false;
    }

    private function hear(array $event): void
    {
        $user = $event['u'] ?? null;
        $peer = new RoomcastPeer(
            $this->roomcast,
            $this->name,
            $user,
            $event['session'] ?? null,
            $event['r'] ?? null,
            $event,
        );
        match ($event['event']) {
            'on_open' => $this->onOpen($peer),
            'on_close' => $this->onClose($peer, $event['code']),
            'on_error' => $this->onError($peer, $event['why']),
            'on_message' => match (true) {
                $user === $this->name => null,
                $event['t'] === 'msg' => $this->onMessage($peer, $event['d'] ?? null),
                default => $this->onChange($peer, $event),
            },
            // A later server may tell more.
            default => null,
        };
    }

    private function judge(array $question): array
    {
        $verdict = match ($question['event']) {
            'connect' => $this->mayConnect($question),
            'join' => $this->mayJoin($question),
            'publish' => $this->mayPublish($question),
            default => true,
        };
        return match (true) {
            $verdict === true => [],
            $verdict === false => ['refuse' => 'not allowed'],
            is_string($verdict) => ['refuse' => $verdict],
            default => $verdict,
        };
    }
}
