// Push a ticket, a comment and a notification. RT_URL=http://localhost:3002 RT_KEY=irt_… node push.mjs

/** Send operations and return their results. After a failure the same operations are sent again. */
async function push(operations) {
  const request = {
    method: 'POST',
    headers: { Authorization: `Bearer ${process.env.RT_KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ operations }),
  };
  for (const pauseMs of [500, 1000, 2000, 4000, 0]) {
    try {
      const answer = await fetch(`${process.env.RT_URL}/api/v1/batch`, { ...request, signal: AbortSignal.timeout(30_000) });
      const body = await answer.json();
      if (answer.ok && body.results.every((one) => one.error?.code !== 'UNAVAILABLE')) return body.results;
      if (!answer.ok && answer.status !== 429 && answer.status !== 503) {
        throw Object.assign(new Error(body.error.message), { final: true });
      }
    } catch (error) {
      if (error.final) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  throw new Error('the realtime server cannot be reached');
}

const results = await push([
  { op: 'ticket.put', ticketId: '42', subject: 'Cannot sign in', status: 'open', requesterId: 'mia' },
  {
    op: 'ticket.comment',
    ticketId: '42',
    id: 'comment-17',
    kind: 'reply',
    author: { id: 'ann', name: 'Ann' },
    excerpt: 'We are looking into it.',
  },
  { op: 'notification', id: 'reply-17', userId: 'mia', type: 'reply', title: 'Ann has answered' },
]);
for (const one of results) console.log(JSON.stringify(one));
