<?php
/**
 * Roomcast from PHP: one file, PHP 8.1 or later, nothing to install. Copy it into your project.
 *
 *     require 'Roomcast.php';
 *     $roomcast = new Roomcast('http://127.0.0.1:8080', getenv('ROOMCAST_KEY') ?: null);
 *     $place = $roomcast->publish('lobby', ['text' => 'order 17 paid'], id: 'order-17-paid');
 *
 *     $queue = new RoomcastQueue('redis://127.0.0.1:6379');     // or the built-in door: redis://127.0.0.1:6380
 *     $queue->push('lobby', ['text' => 'order 17 paid'], id: 'order-17-paid');
 *
 * Roomcast asks the server API (docs/api.md): with the curl extension where it is loaded, else over a socket of its
 * own; the connection is kept either way. RoomcastQueue pushes into the list that Roomcast takes from: with php-redis
 * where it is loaded, else over a socket of its own.
 *
 * What fails throws. A call is repeated by itself only when that cannot do anything twice: when it only reads, or when
 * all that it says has an id. Everything else throws at the first failure, and you decide.
 */

declare(strict_types=1);

/** What goes wrong between a backend and Roomcast. */
class RoomcastException extends RuntimeException
{
    /**
     * @param string $why   one word for programs, such as `bad-room`, `not-allowed`, `busy`, `unreachable`
     * @param int $status   the HTTP status; 0 when there was no answer
     * @param ?int $waitMs  when to try again, in milliseconds
     */
    public function __construct(
        string $message,
        public readonly string $why,
        public readonly int $status = 0,
        public readonly ?int $waitMs = null,
        ?Throwable $previous = null,
    ) {
        parent::__construct($message, $status, $previous);
    }
}

/** There was no answer: whether the call was carried out is not known. With an id it may be repeated. */
final class RoomcastUnreachable extends RoomcastException
{
    public function __construct(string $message, ?Throwable $previous = null)
    {
        parent::__construct($message, 'unreachable', 0, null, $previous);
    }
}

/** The server API. One object keeps one connection. */
final class Roomcast
{
    private const JSON = JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION;
    /** Longest pause before a repeat, in milliseconds. */
    private const PAUSE_MS_MAX = 2000;

    private RoomcastSocket|RoomcastCurl $transport;

    /**
     * @param string $url        of any node, or of the load balancer in front of them
     * @param ?string $key       one of the server's auth.api_keys; none where the API is open to this machine
     * @param float $timeout     how long one try may take, in seconds
     * @param int $retries       how often a call that may be repeated is repeated
     * @param string $transport  `auto`, `curl` or `socket`
     */
    public function __construct(
        string $url = 'http://127.0.0.1:8080',
        #[SensitiveParameter] ?string $key = null,
        float $timeout = 5.0,
        private readonly int $retries = 3,
        string $transport = 'auto',
    ) {
        $parts = parse_url($url);
        $scheme = $parts['scheme'] ?? '';
        if (!in_array($scheme, ['http', 'https'], true) || !isset($parts['host']) || ($parts['path'] ?? '/') !== '/') {
            throw new InvalidArgumentException("$url is no address of a server; write http://host:port or https://host");
        }
        $port = $parts['port'] ?? ($scheme === 'https' ? 443 : 80);
        $headers = ['Content-Type: application/json', 'Accept: application/json'];
        if ($key !== null) {
            $headers[] = "Authorization: Bearer $key";
        }
        $this->transport = match ($transport) {
            'auto' => function_exists('curl_init')
                ? new RoomcastCurl("$scheme://{$parts['host']}:$port", $headers, $timeout)
                : new RoomcastSocket($scheme === 'https', $parts['host'], $port, $headers, $timeout),
            'curl' => new RoomcastCurl("$scheme://{$parts['host']}:$port", $headers, $timeout),
            'socket' => new RoomcastSocket($scheme === 'https', $parts['host'], $port, $headers, $timeout),
            default => throw new InvalidArgumentException("$transport is no transport; write auto, curl or socket"),
        };
    }

    /** Says something in a room. Returns its place: `['r' => 'lobby', 's' => 129, 'e' => 'k3f9', 'dup' => false]`. */
    public function publish(string $room, mixed $data, ?string $id = null, ?string $user = null): array
    {
        return $this->call('POST', '/api/publish', self::message($room, $data, $id, $user), $id !== null);
    }

    /**
     * Says many things, in any rooms; in each room in this order. At most 1000.
     *
     * @param list<array{r: string, d: mixed, id?: string, u?: string}> $messages
     * @return list<array> for each message its place, or `['line' => 3, 'code' => 400, 'why' => 'bad-room', 'msg' => '…']`
     */
    public function batch(array $messages): array
    {
        $lines = array_map(fn (array $message) => json_encode($message, self::JSON), array_values($messages));
        $ids = array_filter($messages, fn (array $message) => isset($message['id']));
        $text = $this->ask('POST', '/api/batch', implode("\n", $lines), count($ids) === count($messages));
        return array_map(self::decode(...), explode("\n", rtrim($text, "\n")));
    }

    /** Says the same in several rooms. Returns by room its place, or why it was refused there (`code`, `why`, `msg`). */
    public function broadcast(array $rooms, mixed $data, ?string $id = null, ?string $user = null): array
    {
        $call = ['rooms' => array_values($rooms)] + self::message('', $data, $id, $user);
        unset($call['r']);
        return $this->call('POST', '/api/broadcast', $call, $id !== null);
    }

    /** The rooms that somebody is in: room to number of sessions, in order of their names. Asks page by page. */
    public function rooms(string $prefix = ''): Generator
    {
        for ($after = null, $more = true; $more; $more = $page['more']) {
            $page = $this->read('/api/rooms', ['prefix' => $prefix, 'after' => $after, 'n' => 1000]);
            foreach ($page['list'] as ['r' => $after, 'sessions' => $sessions]) {
                yield $after => $sessions;
            }
        }
    }

    /** How a room stands (`r`, `e`, `s`, `first`, `sessions`, `users`); null if nobody is in it and nothing was ever said. */
    public function room(string $room): ?array
    {
        return $this->unlessThereIsNone(fn () => $this->read(self::path($room), []));
    }

    /** The users in a room: name to what the token says about her (null for nothing). Asks page by page. */
    public function who(string $room): Generator
    {
        for ($after = null, $more = true; $more; $more = $page['more']) {
            $page = $this->read(self::path($room) . '/who', ['after' => $after, 'n' => 1000]);
            foreach ($page['list'] as $shown) {
                yield ($after = $shown['u']) => $shown['d'] ?? null;
            }
        }
    }

    /** A page of the log, oldest first: `['e' => …, 'list' => […], 'more' => true, …]`; null if nothing was ever said. */
    public function log(string $room, ?int $after = null, ?int $before = null, int $n = 100): ?array
    {
        $words = ['after' => $after, 'before' => $before, 'n' => $n];
        return $this->unlessThereIsNone(fn () => $this->read(self::path($room) . '/log', $words));
    }

    /**
     * What became of an entry: `origin` (where it came from; null if that is not remembered any more), `counts` and `list`
     * (what each session has of it), `silent` (nodes that have not answered). At most 1000 sessions; `$user`: only hers.
     * Null if there is no such entry (any more).
     */
    public function trace(string $room, int $offset, ?string $user = null): ?array
    {
        $path = '/api/trace/' . rawurlencode($room) . "/$offset";
        return $this->unlessThereIsNone(fn () => $this->read($path, ['user' => $user, 'n' => 1000]));
    }

    /** Blanks a message, whoever has said it. Returns false if there is none at that place (any more). */
    public function erase(string $room, int $offset, ?string $user = null): bool
    {
        $path = self::path($room) . "/log/$offset" . ($user === null ? '' : '?u=' . rawurlencode($user));
        return $this->unlessThereIsNone(fn () => self::decode($this->ask('DELETE', $path, '', false))) !== null;
    }

    /** Brings the sessions that a user has now into rooms. */
    public function join(string $user, string ...$rooms): void
    {
        $this->call('POST', '/api/join', ['u' => $user, 'rooms' => array_values($rooms)], false);
    }

    /** Takes the sessions of a user out of rooms. */
    public function leave(string $user, string ...$rooms): void
    {
        $this->call('POST', '/api/leave', ['u' => $user, 'rooms' => array_values($rooms)], false);
    }

    /** A user may not write in a room for so many seconds; null: for good; 0 ends it. Returns `r`, `u` and `until`. */
    public function mute(string $room, string $user, ?int $seconds = null): array
    {
        return $this->call('POST', self::path($room) . '/mute', ['u' => $user, 'for' => $seconds], true);
    }

    /** A user may neither come into a room nor read it for so many seconds; null: for good; 0 ends it. */
    public function ban(string $room, string $user, ?int $seconds = null): array
    {
        return $this->call('POST', self::path($room) . '/ban', ['u' => $user, 'for' => $seconds], true);
    }

    /** Nobody but moderators and backends may write in a room for so many seconds; 0 ends it. */
    public function freeze(string $room, int $seconds): array
    {
        return $this->call('POST', self::path($room) . '/freeze', ['for' => $seconds], true);
    }

    /** So many seconds between two messages of a user in a room; 0 ends it. */
    public function slow(string $room, int $every): array
    {
        return $this->call('POST', self::path($room) . '/slow', ['every' => $every], true);
    }

    /** A user is a `moderator` of a room, or just a `member`. */
    public function role(string $room, string $user, string $role): array
    {
        return $this->call('POST', self::path($room) . '/role', ['u' => $user, 'role' => $role], true);
    }

    /** The rules of a room that are in force: `muted`, `banned`, `frozen`, `slow`, `roles`. */
    public function rules(string $room): array
    {
        return $this->read(self::path($room) . '/rules', []);
    }

    /** Closes all sessions of a user. A code of 40xx tells the client not to come back. */
    public function disconnect(string $user, string $why = 'disconnected', int $code = 4003): void
    {
        $this->call('POST', '/api/disconnect', ['u' => $user, 'code' => $code, 'why' => $why], false);
    }

    private static function message(string $room, mixed $data, ?string $id, ?string $user): array
    {
        $named = array_filter(['id' => $id, 'u' => $user], fn (?string $value) => $value !== null);
        return ['r' => $room, 'd' => $data] + $named;
    }

    private static function path(string $room): string
    {
        return '/api/rooms/' . rawurlencode($room);
    }

    private static function decode(string $text): array
    {
        try {
            return json_decode($text, true, 512, JSON_THROW_ON_ERROR);
        } catch (JsonException $error) {
            throw new RoomcastException('the answer is no JSON; is this the address of a Roomcast server?', 'no-json', 0, null, $error);
        }
    }

    private function read(string $path, array $words): array
    {
        $words = array_filter($words, fn (mixed $value) => $value !== null && $value !== '');
        $query = http_build_query($words, '', '&', PHP_QUERY_RFC3986);
        return self::decode($this->ask('GET', $path . ($query === '' ? '' : "?$query"), '', true));
    }

    private function call(string $method, string $path, array $body, bool $repeatable): array
    {
        return self::decode($this->ask($method, $path, json_encode($body, self::JSON), $repeatable));
    }

    private function unlessThereIsNone(Closure $call): ?array
    {
        try {
            return $call();
        } catch (RoomcastException $error) {
            if (in_array($error->why, ['no-room', 'no-entry'], true)) {
                return null;
            }
            throw $error;
        }
    }

    /** The body of the answer. Repeats what may be repeated while the server cannot be reached or says "later". */
    private function ask(string $method, string $path, string $body, bool $repeatable): string
    {
        for ($try = 0; ; $try++) {
            try {
                [$status, $text] = $this->transport->send($method, $path, $body);
                if ($status >= 200 && $status < 300) {
                    return $text;
                }
                $problem = self::problem($status, $text);
            } catch (RoomcastUnreachable $unreachable) {
                $problem = $unreachable;
            }
            $mayPass = $problem instanceof RoomcastUnreachable || $problem->status === 503;
            if (!$repeatable || !$mayPass || $try >= $this->retries) {
                throw $problem;
            }
            // At least as long as the server says, and longer from try to try; not all backends in the same moment.
            $pause = max($problem->waitMs ?? 0, 50 * 2 ** $try) + random_int(0, 50);
            usleep(1000 * min($pause, self::PAUSE_MS_MAX));
        }
    }

    private static function problem(int $status, string $text): RoomcastException
    {
        $told = json_decode($text, true);
        if (!is_array($told) || !isset($told['why'], $told['msg'])) {
            return new RoomcastException("HTTP status $status without a reason; is this the address of a Roomcast server?", 'no-json', $status);
        }
        return new RoomcastException("{$told['why']}: {$told['msg']}", $told['why'], $status, $told['wait'] ?? null);
    }
}

/** HTTP by the curl extension, which keeps the connection. Used by Roomcast. */
final class RoomcastCurl
{
    private CurlHandle $curl;

    public function __construct(private readonly string $base, #[SensitiveParameter] array $headers, float $timeout)
    {
        if (!function_exists('curl_init')) {
            throw new InvalidArgumentException('the curl extension is missing; write transport: socket');
        }
        $this->curl = curl_init();
        curl_setopt_array($this->curl, [
            CURLOPT_RETURNTRANSFER => true,
            // Without this curl waits for "100 Continue" before larger bodies.
            CURLOPT_HTTPHEADER => [...$headers, 'Expect:'],
            CURLOPT_TIMEOUT_MS => (int) ceil($timeout * 1000),
            CURLOPT_NOSIGNAL => true,
        ]);
    }

    /** @return array{int, string} status and body */
    public function send(string $method, string $path, string $body): array
    {
        curl_setopt_array($this->curl, [
            CURLOPT_URL => $this->base . $path,
            CURLOPT_CUSTOMREQUEST => $method,
            CURLOPT_POSTFIELDS => $body,
        ]);
        $text = curl_exec($this->curl);
        if ($text === false) {
            throw new RoomcastUnreachable("cannot reach {$this->base}: " . curl_error($this->curl));
        }
        return [curl_getinfo($this->curl, CURLINFO_RESPONSE_CODE), $text];
    }
}

/** As much of HTTP/1.1 as Roomcast speaks, over a connection that is kept. Used by Roomcast. */
final class RoomcastSocket
{
    /** @var ?resource */
    private $stream = null;

    public function __construct(
        private readonly bool $tls,
        private readonly string $host,
        private readonly int $port,
        #[SensitiveParameter] private readonly array $headers,
        private readonly float $timeout,
    ) {
    }

    /** @return array{int, string} status and body */
    public function send(string $method, string $path, string $body): array
    {
        $this->connect();
        $head = [
            "$method $path HTTP/1.1",
            "Host: {$this->host}:{$this->port}",
            ...$this->headers,
            'Content-Length: ' . strlen($body),
        ];
        try {
            $this->write(implode("\r\n", $head) . "\r\n\r\n" . $body);
            return $this->answer();
        } catch (RoomcastUnreachable $error) {
            // What would come now belongs to another call.
            $this->hangUp();
            throw $error;
        }
    }

    private function connect(): void
    {
        // A server that closed meanwhile says so by the end of the stream; nothing was sent on it then.
        if ($this->stream !== null && $this->isQuiet()) {
            return;
        }
        $this->hangUp();
        $address = ($this->tls ? 'tls' : 'tcp') . "://{$this->host}:{$this->port}";
        $stream = @stream_socket_client($address, $code, $why, $this->timeout);
        if ($stream === false) {
            throw new RoomcastUnreachable("cannot reach $address: " . ($why ?: 'no connection'));
        }
        $this->stream = $stream;
    }

    private function isQuiet(): bool
    {
        $read = [$this->stream];
        $write = $except = null;
        return @stream_select($read, $write, $except, 0) === 0;
    }

    private function hangUp(): void
    {
        if ($this->stream !== null) {
            fclose($this->stream);
            $this->stream = null;
        }
    }

    private function write(string $bytes): void
    {
        for ($sent = 0; $sent < strlen($bytes); $sent += $n) {
            $n = @fwrite($this->stream, substr($bytes, $sent));
            if ($n === false || $n === 0) {
                throw new RoomcastUnreachable('the connection broke while the call was sent');
            }
        }
    }

    private function answer(): array
    {
        $end = microtime(true) + $this->timeout;
        $status = (int) (explode(' ', $this->line($end), 3)[1] ?? 0);
        $headers = [];
        while (($line = $this->line($end)) !== '') {
            [$name, $value] = explode(':', $line, 2) + [1 => ''];
            $headers[strtolower($name)] = strtolower(trim($value));
        }
        $body = match (true) {
            $status === 204 || $status === 304 => '',
            isset($headers['content-length']) => $this->bytes((int) $headers['content-length'], $end),
            ($headers['transfer-encoding'] ?? '') === 'chunked' => $this->chunks($end),
            default => throw new RoomcastUnreachable('the answer has no length; is this the address of a Roomcast server?'),
        };
        if (($headers['connection'] ?? '') === 'close') {
            $this->hangUp();
        }
        return [$status, $body];
    }

    private function chunks(float $end): string
    {
        $body = '';
        while (($length = hexdec(explode(';', $this->line($end))[0])) > 0) {
            $body .= $this->bytes((int) $length, $end);
            $this->line($end);
        }
        while ($this->line($end) !== '') {
        }
        return $body;
    }

    private function line(float $end): string
    {
        $this->wait($end);
        $line = @fgets($this->stream, 65536);
        if ($line === false || !str_ends_with($line, "\n")) {
            throw new RoomcastUnreachable('there was no answer in time, or the connection broke');
        }
        return rtrim($line, "\r\n");
    }

    private function bytes(int $length, float $end): string
    {
        for ($body = ''; strlen($body) < $length; $body .= $part) {
            $this->wait($end);
            $part = @fread($this->stream, $length - strlen($body));
            if ($part === false || $part === '') {
                throw new RoomcastUnreachable('the answer broke off');
            }
        }
        return $body;
    }

    private function wait(float $end): void
    {
        $left = max(0.001, $end - microtime(true));
        stream_set_timeout($this->stream, (int) $left, (int) (1e6 * ($left - (int) $left)));
    }
}

/** The list that Roomcast takes messages from: in Redis, or at the server's built-in door. */
final class RoomcastQueue
{
    private Redis|RoomcastResp|null $link = null;

    /**
     * @param string $url      `redis://[[user:]password@]host:port`, `rediss://` with TLS
     * @param string $list     the server's `queue.list`
     * @param float $timeout   how long one try may take, in seconds
     * @param int $retries     how often a push with an id is repeated
     * @param bool $extension  false: php-redis is not used even where it is loaded
     */
    public function __construct(
        #[SensitiveParameter] private readonly string $url = 'redis://127.0.0.1:6379',
        private readonly string $list = 'message_queue',
        private readonly float $timeout = 5.0,
        private readonly int $retries = 3,
        private readonly bool $extension = true,
    ) {
        $parts = parse_url($url);
        if (!in_array($parts['scheme'] ?? '', ['redis', 'rediss'], true) || !isset($parts['host'])) {
            throw new InvalidArgumentException('the address of a queue is written redis://host:port or rediss://host:port');
        }
    }

    /** Pushes a message into a room, or into the queue's default room. */
    public function push(?string $room, mixed $content, ?string $id = null, ?string $user = null): void
    {
        $named = ['room' => $room, 'id' => $id, 'user' => $user];
        $item = array_filter($named, fn (?string $value) => $value !== null) + ['content' => $content];
        $json = json_encode($item, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION);
        for ($try = 0; ; $try++) {
            try {
                $this->lPush($json);
                return;
            } catch (RoomcastUnreachable $error) {
                $this->link = null;
                if ($id === null || $try >= $this->retries) {
                    throw $error;
                }
                usleep(1000 * (50 * 2 ** $try + random_int(0, 50)));
            }
        }
    }

    private function lPush(string $json): void
    {
        try {
            $this->link ??= $this->open();
            $length = $this->link->lPush($this->list, $json);
        } catch (RedisException $error) {
            throw new RoomcastUnreachable("the queue does not answer: {$error->getMessage()}", $error);
        }
        if ($length === false) {
            $why = $this->link->getLastError() ?? 'no reason given';
            $this->link->clearLastError();
            throw new RoomcastException("the queue refused the message: $why", 'refused');
        }
    }

    private function open(): Redis|RoomcastResp
    {
        $parts = parse_url($this->url);
        $host = (($parts['scheme'] ?? '') === 'rediss' ? 'tls://' : '') . $parts['host'];
        $port = $parts['port'] ?? 6379;
        $login = array_map(rawurldecode(...), array_values(array_filter(
            [$parts['user'] ?? '', $parts['pass'] ?? ''],
            fn (string $part) => $part !== '',
        )));
        $useExtension = $this->extension && class_exists(Redis::class);
        $link = $useExtension ? new Redis() : new RoomcastResp();
        // The warning of php-redis says no more than what is thrown here.
        if (!@$link->connect($host, $port, $this->timeout, null, 0, $this->timeout)) {
            throw new RoomcastUnreachable("cannot reach the queue at {$parts['host']}:$port");
        }
        if ($login !== [] && !$link->auth($login)) {
            throw new RoomcastException('the queue refused the password', 'bad-password');
        }
        return $link;
    }
}

/** As much of the Redis protocol as a push needs; the same calls as php-redis has. Used by RoomcastQueue. */
final class RoomcastResp
{
    /** @var ?resource */
    private $stream = null;
    private ?string $error = null;

    public function connect(string $host, int $port, float $timeout): bool
    {
        $address = (str_contains($host, '://') ? '' : 'tcp://') . "$host:$port";
        $stream = @stream_socket_client($address, $code, $why, $timeout);
        if ($stream === false) {
            return false;
        }
        stream_set_timeout($stream, (int) $timeout, (int) (1e6 * ($timeout - (int) $timeout)));
        $this->stream = $stream;
        return true;
    }

    public function auth(#[SensitiveParameter] array $login): bool
    {
        return $this->command('AUTH', ...$login) === 'OK';
    }

    public function lPush(string $list, string $item): int|false
    {
        $answer = $this->command('LPUSH', $list, $item);
        return $answer === false ? false : (int) $answer;
    }

    public function getLastError(): ?string
    {
        return $this->error;
    }

    public function clearLastError(): bool
    {
        $this->error = null;
        return true;
    }

    /** The answer of a command whose answer is one line; false for an error, which getLastError() tells. */
    private function command(string ...$words): string|false
    {
        $bytes = '*' . count($words) . "\r\n";
        foreach ($words as $word) {
            $bytes .= '$' . strlen($word) . "\r\n$word\r\n";
        }
        for ($sent = 0; $sent < strlen($bytes); $sent += $n) {
            $n = @fwrite($this->stream, substr($bytes, $sent));
            if ($n === false || $n === 0) {
                throw new RoomcastUnreachable('the connection to the queue broke');
            }
        }
        $line = @fgets($this->stream);
        if ($line === false || !str_ends_with($line, "\n")) {
            throw new RoomcastUnreachable('the queue does not answer');
        }
        if ($line[0] === '-') {
            $this->error = rtrim(substr($line, 1));
            return false;
        }
        return rtrim(substr($line, 1));
    }
}
