// Drives engine/doors/static/client.js against a real server and prints one JSON line per step.
// Usage: node client_js_story.js CLIENT_JS BASE_URL TOKENS_JSON
"use strict";
const [, , file, url, tokensJson] = process.argv;
const tokens = JSON.parse(tokensJson); // agent, customer, expired, shortlived
const insightdesk = require(file);
const say = (step, data) => console.log(JSON.stringify({ step, data }));
const next = (at, event, ms = 8000) =>
	new Promise((resolve, reject) => {
		const timer = setTimeout(() => reject(new Error(`no ${event} in ${ms} ms`)), ms);
		const once = (data) => (clearTimeout(timer), at.off(event, once), resolve(data));
		at.on(event, once);
	});

const push = (change) =>
	fetch(tokens.ticketUrl, {
		method: "PUT",
		headers: { Authorization: `Bearer ${tokens.admin}`, "Content-Type": "application/json" },
		body: JSON.stringify(change),
	});

async function main() {
	const desk = insightdesk.connect(url, { token: tokens.agent });
	const tickets = desk.of("/tickets");
	tickets.emit("ticket:subscribe", { ticketId: "42" }); // emitted before the connection exists, so it is queued
	const subscribed = next(tickets, "ticket:subscribed");
	const hello = await next(tickets, "connect");
	say("connected", { sid: hello.sid === tickets.sid, recovered: tickets.recovered, connected: tickets.connected });
	say("waited", (await subscribed).ticketId);

	const ack = await tickets.call("ticket:view", { ticketId: "42", state: "replying" });
	say("ack", { ok: ack.ok, ticketId: ack.ticketId });
	say("refused", await tickets.call("ticket:subscribe", { ticketId: 5 }).catch((error) => ({ code: error.code, field: error.field, error: error instanceof Error })));

	const all = [];
	tickets.on("*", (data, event) => all.push(event));
	const failed = next(tickets, "error");
	tickets.emit("no:such");
	say("error event", (await failed).code);
	tickets.on("error", () => {
		throw new Error("a listener of the page");
	});
	const { error } = console;
	console.error = () => {};
	tickets.emit("no:such");
	await next(tickets, "error");
	console.error = error;
	say("a listener that throws must not stop the others", all.length >= 2);

	// A cut: a pending call is rejected, new events are queued, volatile ones are dropped, and the client reconnects by itself.
	const under = tickets.call("ticket:subscribe", { ticketId: "42" }).catch((error) => error.code);
	const down = next(tickets, "disconnect");
	const before = tickets.sid;
	tickets.drop();
	say("down", [(await down).final, await under, tickets.connected]);
	tickets.emit("ticket:typing", { ticketId: "42" }, { volatile: true });
	const later = tickets.call("ticket:subscribe", { ticketId: "42" });
	const again = await next(tickets, "connect");
	say("back", { same: again.sid === before, recovered: again.recovered && tickets.recovered, later: (await later).ok });

	// Events from the time of the cut arrive after the reconnect: after `connect` and before anything new.
	tickets.close();
	const told = [];
	const offsets = {};
	tickets.on("*", (data, event, offset) => (told.push(event), (offsets[event] = offset)));
	await push({ status: "pending" });
	tickets.open();
	await next(tickets, "ticket:updated");
	say("missed", told);

	// A listener gets the offset of a logged event, and can request the events after it again.
	await tickets.call("ticket:unsubscribe", { ticketId: "42" });
	await push({ status: "open" });
	await push({ priority: "high" });
	const repeated = [];
	tickets.on("ticket:updated", ({ changes }) => repeated.push(Object.keys(changes)[0]));
	await tickets.call("ticket:subscribe", { ticketId: "42", since: offsets["ticket:updated"] });
	say("since", { offset: /^[0-9]+-[0-9]+$/.test(offsets["ticket:updated"]), connect: offsets.connect === undefined, repeated });

	// Final refusals: a role that is not allowed; an expired token without a way to get a new one.
	const dashboard = insightdesk.connect(url, { token: tokens.customer }).of("/dashboard");
	const [refusal, end] = await Promise.all([next(dashboard, "connect_error"), next(dashboard, "disconnect")]);
	say("forbidden", { code: refusal.code, close: end.code, final: end.final });
	const old = insightdesk.connect(url, { token: tokens.expired }).of("/tickets");
	const [expired, ended] = await Promise.all([next(old, "connect_error"), next(old, "disconnect")]);
	say("expired", { code: expired.code, close: ended.code, final: ended.final });

	// With a new token it connects; the same token is not tried twice.
	let asked = 0;
	const renewed = insightdesk.connect(url, { token: tokens.expired, getToken: () => (asked++, tokens.agent) });
	await Promise.all([next(renewed.of("/tickets"), "connect"), next(renewed.of("/presence"), "connect")]);
	say("renewed", asked);
	let tried = 0;
	const stuck = insightdesk.connect(url, { getToken: async () => (tried++, tokens.expired) }).of("/tickets");
	const stop = await next(stuck, "disconnect");
	say("stuck", { code: stop.code, final: stop.final, tried });

	// A token that is about to expire is renewed on the open connection.
	let renewals = 0;
	const short = insightdesk.connect(url, { token: tokens.shortlived, getToken: () => (renewals++, tokens.agent) }).of("/tickets");
	let cut = 0;
	short.on("disconnect", () => cut++);
	await next(short, "session:expiring");
	await new Promise((resolve) => setTimeout(resolve, tokens.shortlivedMs));
	say("refreshed", { renewals, cut, works: (await short.call("ticket:unsubscribe", { ticketId: "42" })).ok });

	// No server: each failure is reported and tried again, and the client can be closed.
	const away = insightdesk.connect("http://127.0.0.1:9", { token: "x" }).of("/tickets");
	say("late", await away.call("ticket:subscribe", { ticketId: "42" }, { timeout: 20 }).catch((error) => error.code));
	const offline = await next(away, "connect_error");
	const finished = next(away, "disconnect");
	away.close();
	say("away", { code: offline.code, final: (await finished).final });
	for (const each of [desk, renewed]) each.close();
	short.close();
	say("done", true);
}

main().catch((error) => {
	say("failed", String(error.stack));
	process.exit(1);
});
