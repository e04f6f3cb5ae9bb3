<?php
// Push a ticket, a comment and a notification. RT_URL=http://localhost:3002 RT_KEY=irt_… php push.php
declare(strict_types=1);

/** Send operations and return their results. After a failure the same operations are sent again. */
function push(array $operations): array
{
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => "Authorization: Bearer " . getenv('RT_KEY') . "\r\nContent-Type: application/json\r\n",
        'content' => json_encode(['operations' => $operations], JSON_THROW_ON_ERROR),
        'timeout' => 30,
        'ignore_errors' => true, // return the body of an error, too
    ]]);
    foreach ([0.5, 1, 2, 4, 0] as $pause) {
        $http_response_header = [];
        $body = @file_get_contents(getenv('RT_URL') . '/api/v1/batch', false, $context);
        $status = (int) (explode(' ', $http_response_header[0] ?? 'HTTP/1.1 0')[1]);
        if ($body !== false && $status === 200) {
            $results = json_decode($body, true, 64, JSON_THROW_ON_ERROR)['results'];
            $codes = array_map(fn (array $one) => $one['error']['code'] ?? '', $results);
            if (!in_array('UNAVAILABLE', $codes, true)) {
                return $results;
            }
        } elseif ($body !== false && $status !== 429 && $status !== 503) {
            throw new RuntimeException("refused: $body"); // a wrong key or a malformed request: waiting does not help
        }
        usleep((int) ($pause * 1_000_000));
    }
    throw new RuntimeException('the realtime server cannot be reached');
}

$results = push([
    ['op' => 'ticket.put', 'ticketId' => '42', 'subject' => 'Cannot sign in', 'status' => 'open', 'requesterId' => 'mia'],
    [
        'op' => 'ticket.comment',
        'ticketId' => '42',
        'id' => 'comment-17',
        'kind' => 'reply',
        'author' => ['id' => 'ann', 'name' => 'Ann'],
        'excerpt' => 'We are looking into it.',
    ],
    ['op' => 'notification', 'id' => 'reply-17', 'userId' => 'mia', 'type' => 'reply', 'title' => 'Ann has answered'],
]);
foreach ($results as $one) {
    echo json_encode($one), "\n";
}
