/**
 * The demo page: one agent, one customer and one admin, each with connections of their own (client.js), so that each
 * panel shows only what the server sends that person. Everything anybody wrote reaches the page through textContent.
 *
 *   tools · people and connections · agent: tickets · customer: ticket · chat, both sides · bell · dashboard · start
 */
(() => {
"use strict";

// ── tools ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const $ = (id) => document.getElementById(id);
const WORDS = { on_hold: "on hold" };
const word = (name) => WORDS[name] ?? name;
const STATUSES = ["new", "open", "pending", "on_hold", "solved", "closed"];
const PRIORITIES = ["low", "normal", "high", "urgent"];
const newId = () => crypto.getRandomValues(new Uint32Array(4)).join("").slice(0, 24);

/** Make an element from properties (`data` for data-*, `aria` for aria-*) and children. */
function h(tag, { data, aria, ...props } = {}, ...inside) {
	const element = Object.assign(document.createElement(tag), props);
	Object.assign(element.dataset, data);
	for (const [name, value] of Object.entries(aria ?? {})) element.setAttribute("aria-" + name, value);
	element.append(...inside);
	return element;
}

function put(element, text) {
	text = String(text);
	if (element.textContent === text) return false;
	element.textContent = text;
	return true;
}

/** Highlight an element that has just changed. */
function flash(element) {
	element.classList.remove("fresh");
	void element.offsetWidth; // restarts the animation
	element.classList.add("fresh");
}

/** Give `parent` one child per item. Elements of items that stay are kept, with their focus. */
function keyed(parent, items, key, make, update) {
	const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
	let place = parent.firstElementChild;
	for (const item of items) {
		const name = String(key(item));
		const child = old.get(name) ?? make(item);
		child.dataset.key = name;
		old.delete(name);
		update?.(child, item);
		if (child === place) place = place.nextElementSibling;
		else parent.insertBefore(child, place);
	}
	for (const child of old.values()) child.remove();
}

/** Change a scrolling list, and stay at its end if the reader was there. */
function stay(list, change) {
	const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
	change();
	if (atEnd) list.scrollTop = list.scrollHeight;
}

const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const initials = (name) => name.split(/\s+/).map((part) => part[0] ?? "").slice(0, 2).join("").toUpperCase();
const hue = (id) => [...id].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 997, 7) % 5;

function face(person, small = true) {
	const title = person.name;
	return h("span", { className: small ? "face small" : "face", title, data: { hue: hue(person.id) }, aria: { hidden: true } }, initials(person.name));
}

const andAll = (names) => (names.length > 2 ? `${names.length} people` : names.join(" and "));
const typingLine = (names) => (names.length ? `${andAll(names)} ${names.length > 1 ? "are" : "is"} typing` : "");

// ── people and connections ─────────────────────────────────────────────────────────────────────────────────────────

const desks = {}; // agent, customer, admin
const users = {}; // the same names → {id, name, role, title}
const names = new Map(); // user id → name
const channels = [];
let mineId = "";

async function load() {
	const answer = await fetch("/demo/desk");
	if (!answer.ok) throw new Error(`the demo answered ${answer.status}`);
	return answer.json();
}

function meet(who, { token, user }) {
	users[who] = user;
	desks[who] = insightdesk.connect("/", { token, getToken: async () => (await load()).people[who].token });
}

function channel(who, path) {
	const made = desks[who].of(path);
	channels.push(made);
	made.on("*", (data, event) => wire(who, path, event, data));
	made.on("connect", linkState).on("disconnect", linkState);
	made.on("error", (error) => console.warn(path, error));
	return made;
}

let wasDown = false;
let stateTimer;
function linkState() {
	const up = channels.filter((each) => each.connected);
	const state = $("state");
	clearTimeout(stateTimer);
	if (up.length < channels.length) {
		state.dataset.state = up.length ? "waiting" : "down";
		put(state, `${wasDown ? "Reconnecting" : "Connecting"} ${up.length}/${channels.length}`);
		return;
	}
	state.dataset.state = "up";
	const resumed = channels.every((each) => each.recovered);
	put(state, wasDown ? (resumed ? "Resumed, nothing missed" : "Reconnected") : "Connected");
	if (wasDown) stateTimer = setTimeout(() => put(state, "Connected"), 5000);
	wasDown = false;
}

$("drop").addEventListener("click", () => {
	wasDown = true;
	for (const each of channels) each.drop();
	linkState();
});

/** Send an event and wait for its ack. A refusal is shown to the person. */
async function ask(at, event, data) {
	try {
		return await at.call(event, data);
	} catch (error) {
		put($("state"), `${event}: ${error.message}`);
		return null;
	}
}

async function act(actor, ticketId, what) {
	const answer = await fetch("/demo/act", {
		method: "POST",
		headers: { "Content-Type": "application/json" },
		body: JSON.stringify({ actor, ticketId, ...what }),
	});
	if (!answer.ok) put($("state"), (await answer.json().catch(() => null))?.error?.message ?? "The demo did not answer");
	return answer.ok;
}

/** Send that a person types, at most every two seconds, and that they stopped: after three seconds, or on sending. */
function typingSender(input, send) {
	let sentAt = 0;
	let timer;
	const stop = () => {
		clearTimeout(timer);
		if (sentAt) send(false);
		sentAt = 0;
	};
	input.addEventListener("input", () => {
		if (!input.value.trim()) return stop();
		clearTimeout(timer);
		timer = setTimeout(stop, 3000);
		if (Date.now() - sentAt < 2000) return;
		sentAt = Date.now();
		send(true);
	});
	input.addEventListener("blur", stop);
	return stop;
}

function onSend(form, input, send) {
	const submit = () => {
		const text = input.value.trim();
		if (text) send(text);
		input.value = "";
	};
	form.addEventListener("submit", (event) => {
		event.preventDefault();
		submit();
	});
	if (input.tagName === "TEXTAREA")
		input.addEventListener("keydown", (event) => {
			if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
			event.preventDefault();
			submit();
		});
}

// ── agent: tickets ─────────────────────────────────────────────────────────────────────────────────────────────────

const tickets = new Map(); // the agent's tickets: id → {fields…, comments, viewers, typing, touched}
let open = { kind: "", id: "" };
let desk; // the agent's /tickets

const known = (id) => {
	if (!tickets.has(id)) tickets.set(id, { ticketId: id, subject: "", comments: [], viewers: [], typing: new Map(), touched: 0 });
	return tickets.get(id);
};

function learn(ticket) {
	const mine = known(ticket.ticketId);
	Object.assign(mine, ticket, { touched: Date.parse(ticket.updatedAt ?? "") || mine.touched });
	return mine;
}

function drawTickets() {
	const rows = [...tickets.values()].filter((each) => each.subject).sort((a, b) => b.touched - a.touched);
	put($("tickets-count"), rows.length);
	keyed($("tickets"), rows, (each) => each.ticketId, ticketRow, (row, each) => {
		const button = row.firstChild;
		button.setAttribute("aria-current", open.kind === "ticket" && open.id === each.ticketId);
		const [subject, status, about, rank] = button.children;
		put(subject, each.subject);
		if (put(status, word(each.status)) && status.dataset.is) flash(row);
		status.dataset.is = each.status;
		put(about, `#${each.ticketId} ${[...each.typing.values()].length ? typingLine([...each.typing.values()]) : names.get(each.requesterId) ?? ""}`);
		if (put(rank, each.priority === "normal" ? "" : each.priority) && rank.dataset.is) flash(row);
		rank.dataset.is = each.priority;
	});
}

function ticketRow(each) {
	const button = h("button", { type: "button", className: "row" }, h("b"), h("span", { className: "pill end" }), h("small"), h("span", { className: "rank end" }));
	button.addEventListener("click", () => openTicket(each.ticketId));
	return h("li", {}, button);
}

/** Subscribe to a ticket, from an offset on. A subscriber shows as a viewer, so send what the agent really views. */
function watch(ticketId, since) {
	const here = open.kind === "ticket" && open.id === ticketId;
	desk.emit("ticket:subscribe", { ticketId, since });
	desk.emit("ticket:view", { ticketId, state: here ? "viewing" : "away" });
}

function openTicket(id) {
	if (open.kind === "ticket" && open.id !== id) desk.emit("ticket:view", { ticketId: open.id, state: "away" });
	open = { kind: "ticket", id };
	desk.emit("ticket:view", { ticketId: id, state: "viewing" });
	$("ticket-thread").replaceChildren();
	drawTickets();
	drawChats();
	drawTicket();
	drawTalk();
	$("ticket-thread").scrollTop = 1e6;
}

function drawTicket() {
	const each = open.kind === "ticket" ? tickets.get(open.id) : undefined;
	$("ticket").hidden = !each;
	if (!each) return;
	put($("ticket-subject"), each.subject);
	const requester = names.get(each.requesterId) ?? each.requesterId ?? "nobody";
	const assignee = each.assigneeId ? `, assigned to ${names.get(each.assigneeId) ?? each.assigneeId}` : ", unassigned";
	put($("ticket-meta"), `#${each.ticketId} from ${requester}${assignee}`);
	$("ticket-status").value = each.status;
	$("ticket-priority").value = each.priority;
	keyed($("ticket-viewers"), each.viewers.filter((one) => one.user.id !== users.agent.id && one.state !== "away"), (one) => one.user.id, (one) => face(one.user), (one, { user, state }) => {
		one.dataset.doing = state;
		one.title = `${user.name} is ${state}`;
	});
	thread($("ticket-thread"), each.comments);
	put($("ticket-typing"), typingLine([...each.typing.values()]));
}

function thread(list, comments) {
	stay(list, () => keyed(list, comments, (one) => one.id, (one) =>
		h("li", { data: { kind: one.kind } }, face(one.author),
			h("p", { className: "by" }, h("b", {}, one.author.name), one.kind === "note" ? " wrote a note, " : " ", clock(one.createdAt)),
			h("p", { className: "said" }, one.excerpt))));
}

/** Handle one person's ticket events and call `draw` after each. `store` returns the ticket of an id. */
function follow(at, store, draw) {
	at.on("ticket:subscribed", (data) => {
		const each = store(data.ticketId);
		each.viewers = data.viewers ?? [];
		each.typing = new Map(data.typing.map((user) => [user.id, user.name]));
		draw(each);
	});
	at.on("ticket:updated", (data) => {
		const each = store(data.ticketId);
		for (const [field, [, now]] of Object.entries(data.changes)) each[field] = now;
		each.touched = Date.parse(data.updatedAt);
		draw(each);
	});
	at.on("ticket:commented", ({ ticketId, comment }) => {
		const each = store(ticketId);
		if (!each.comments.some((one) => one.id === comment.id)) each.comments = [...each.comments, comment].slice(-40);
		each.touched = Date.parse(comment.createdAt);
		each.typing.delete(comment.author.id);
		draw(each, true);
	});
	at.on("ticket:viewers", (data) => draw(Object.assign(store(data.ticketId), { viewers: data.viewers })));
	at.on("ticket:typing", ({ ticketId, user }) => {
		const each = store(ticketId);
		each.typing.set(user.id, user.name);
		draw(each);
	});
	at.on("ticket:stopTyping", ({ ticketId, userId }) => {
		const each = store(ticketId);
		each.typing.delete(userId);
		draw(each);
	});
}

function startAgent(first) {
	desk = channel("agent", "/tickets");
	const draw = (each, fresh) => {
		drawTickets();
		if (open.kind === "ticket" && open.id === each.ticketId) drawTicket();
		else if (fresh) document.querySelectorAll(`#tickets [data-key="${CSS.escape(each.ticketId)}"]`).forEach(flash);
	};
	follow(desk, known, draw);
	desk.on("ticket:created", ({ ticket }, _, created) => {
		draw(learn(ticket), true);
		watch(ticket.ticketId, created); // it may have been changed again before this subscribes
	});
	desk.on("ticket:deleted", ({ ticketId }) => {
		tickets.delete(ticketId);
		drawTickets();
		if (open.id === ticketId) openTicket(mineId);
	});
	desk.on("connect", async ({ recovered }) => {
		if (recovered) return;
		if (!first) for (const ticket of (await load()).tickets) learn(ticket);
		first = false;
		for (const id of tickets.keys()) watch(id);
		drawTickets();
		drawTicket();
	});
	for (const [select, values, field] of [["ticket-status", STATUSES, "status"], ["ticket-priority", PRIORITIES, "priority"]]) {
		$(select).append(...values.map((value) => h("option", { value }, word(value))));
		$(select).addEventListener("change", () => act("agent", open.id, { [field]: $(select).value }));
	}
	const stopped = typingSender($("ticket-text"), (typing) => {
		if ($("ticket-note").checked) return; // the customer is not shown that somebody writes a note
		desk.emit(typing ? "ticket:typing" : "ticket:stopTyping", { ticketId: open.id }, { volatile: true });
		desk.emit("ticket:view", { ticketId: open.id, state: typing ? "replying" : "viewing" }, { volatile: true });
	});
	onSend($("ticket-form"), $("ticket-text"), (text) => {
		stopped();
		act("agent", open.id, { text, note: $("ticket-note").checked });
	});
	$("ticket-note").addEventListener("change", () => {
		$("ticket-text").placeholder = $("ticket-note").checked ? "Only colleagues will see this" : "Reply to the customer";
	});
	channel("agent", "/presence");
	$("agent-status").addEventListener("change", () => ask(desks.agent.of("/presence"), "presence:status", { status: $("agent-status").value }));
}

// ── customer: the ticket ───────────────────────────────────────────────────────────────────────────────────────────

function startCustomer(ticket) {
	let first = true;
	const at = channel("customer", "/tickets");
	const mine = { ...ticket, comments: ticket.comments.filter((one) => one.kind === "reply"), typing: new Map() };
	const draw = () => {
		put($("mine-id"), `Ticket #${mine.ticketId}`);
		put($("mine-subject"), mine.subject);
		if (put($("mine-status"), word(mine.status)) && $("mine-status").dataset.is) flash($("mine-status"));
		$("mine-status").dataset.is = mine.status;
		thread($("mine-thread"), mine.comments);
		put($("mine-typing"), typingLine([...mine.typing.values()]));
	};
	follow(at, () => mine, draw);
	at.on("connect", ({ recovered }) => {
		if (recovered) return;
		at.emit("ticket:subscribe", { ticketId: mine.ticketId });
		at.emit("ticket:view", { ticketId: mine.ticketId, state: "viewing" });
	});
	at.on("ticket:subscribed", async () => {
		if (!first) {
			const now = (await load()).tickets.find((each) => each.ticketId === mine.ticketId);
			Object.assign(mine, now, { comments: now.comments.filter((one) => one.kind === "reply") });
			draw();
		}
		first = false;
	});
	const stopped = typingSender($("mine-text"), (typing) => at.emit(typing ? "ticket:typing" : "ticket:stopTyping", { ticketId: mine.ticketId }, { volatile: true }));
	onSend($("mine-form"), $("mine-text"), (text) => {
		stopped();
		act("customer", mine.ticketId, { text });
	});
	draw();
	$("mine-thread").scrollTop = 1e6;
}

// ── chat, both sides ───────────────────────────────────────────────────────────────────────────────────────────────

const newTalk = (fields) => ({ state: "waiting", messages: [], typing: new Map(), unread: 0, loaded: false, ...fields });

/** Add a message: in the place of our own unsent one, or at the end. Idempotent. */
function heard(talk, message) {
	const same = (old) => (old.id ? old.id === message.id : old.clientId && old.clientId === message.clientId);
	const place = talk.messages.findIndex(same);
	if (place < 0) talk.messages.push(message);
	else talk.messages[place] = message;
	talk.typing.delete(message.author?.id);
	return place < 0;
}

const remark = (talk, text) => talk.messages.push({ clientId: newId(), remark: true, text });

/** Send a message, and again after a lost connection: the server stores it once per clientId. */
async function say(at, talk, me, text, draw) {
	const message = { clientId: newId(), author: me, text, at: new Date().toISOString(), unsent: true };
	talk.messages.push(message);
	draw();
	for (let tries = 0; tries < 5; tries++) {
		try {
			await at.call("chat:message", { conversationId: talk.conversationId, text, clientId: message.clientId });
			return;
		} catch (error) {
			if (["DISCONNECTED", "TIMEOUT", "UNAVAILABLE"].includes(error.code)) continue;
			talk.messages = talk.messages.filter((one) => one !== message);
			remark(talk, `Not sent: ${error.message}`);
			return draw();
		}
	}
}

function drawThread(list, talk, me) {
	stay(list, () => keyed(list, talk.messages, (one) => one.clientId, (one) => {
		if (one.remark) return h("li", { className: "system" }, one.text);
		const own = one.author.id === me.id;
		return h("li", { data: { own } }, h("p", { className: "by" }, own ? clock(one.at) : `${one.author.name} ${clock(one.at)}`), h("p", { className: "said" }, one.text));
	}, (row, one) => one.remark || (row.dataset.unsent = !!one.unsent)));
}

/** Handle messages of the talks that `find` knows, and call `draw(talk, isNew)` after each. */
function followTalk(at, find, draw) {
	const on = (event, change) => at.on(event, (data) => {
		const talk = find(data.conversationId);
		if (talk) draw(talk, change(talk, data));
	});
	on("chat:message", (talk, data) => heard(talk, data));
	on("chat:typing", (talk, { user }) => void talk.typing.set(user.id, user.name));
	on("chat:stopTyping", (talk, { userId }) => void talk.typing.delete(userId));
	on("chat:closed", (talk, { reason, by }) => {
		if (talk.state !== "closed") remark(talk, by ? `${by.name} ended the chat` : `The chat has ended (${reason})`);
		talk.state = "closed";
		talk.typing.clear();
	});
}

/** Load a talk from the server, and keep messages that are not sent yet. */
async function loadTalk(at, talk) {
	const page = await ask(at, "chat:join", { conversationId: talk.conversationId });
	if (page) fill(talk, page);
}

function fill(talk, { conversation, messages }) {
	const mine = talk.messages.filter((one) => one.unsent && !messages.some((said) => said.clientId === one.clientId));
	Object.assign(talk, conversation, { messages: [...messages, ...mine], loaded: true });
}

const chats = new Map();

function drawChats() {
	const rank = { active: 0, waiting: 1, closed: 2 };
	const rows = [...chats.values()].sort((a, b) => rank[a.state] - rank[b.state] || (a.since < b.since ? -1 : 1));
	put($("chats-count"), rows.length || "");
	$("chats-none").hidden = rows.length > 0;
	keyed($("chats"), rows, (talk) => talk.conversationId, (talk) => {
		const button = h("button", { type: "button", className: "row" }, h("b"), h("span", { className: "pill end" }), h("small"), h("span", { className: "rank end" }));
		button.addEventListener("click", () => openTalk(talk.conversationId));
		const take = h("button", { type: "button", className: "go" }, "Accept");
		take.addEventListener("click", () => accept(talk.conversationId));
		return h("li", {}, button, take);
	}, (row, talk) => {
		const [button, take] = row.children;
		const [name, state, about, unread] = button.children;
		button.setAttribute("aria-current", open.kind === "chat" && open.id === talk.conversationId);
		put(name, talk.customer.name);
		put(state, talk.state);
		state.dataset.is = talk.state;
		state.hidden = talk.state === "waiting";
		put(about, talk.typing.size ? "typing…" : talk.messages.at(-1)?.text ?? talk.text ?? talk.subject ?? "");
		put(unread, talk.unread ? `${talk.unread} new` : "");
		take.hidden = talk.state !== "waiting";
		take.setAttribute("aria-label", `Accept the chat with ${talk.customer.name}`);
	});
}

function openTalk(id) {
	if (open.kind === "ticket") desk.emit("ticket:view", { ticketId: open.id, state: "away" });
	open = { kind: "chat", id };
	chats.get(id).unread = 0;
	$("talk-thread").replaceChildren();
	drawTickets();
	drawTicket();
	drawChats();
	drawTalk();
	$("talk-thread").scrollTop = 1e6;
	if (innerWidth <= 720) $("talk").scrollIntoView({ block: "nearest" });
}

function drawTalk() {
	const talk = open.kind === "chat" ? chats.get(open.id) : undefined;
	$("talk").hidden = !talk;
	if (!talk) return;
	put($("talk-subject"), talk.subject || `Chat with ${talk.customer.name}`);
	put($("talk-meta"), `${talk.customer.name}, ${talk.state === "waiting" ? "waiting since " + clock(talk.since) : talk.state}`);
	$("talk-accept").hidden = talk.state !== "waiting";
	$("talk-close").hidden = talk.state !== "active";
	$("talk-form").hidden = talk.state !== "active";
	const preview = { clientId: "preview", author: talk.customer, text: talk.text ?? "", at: talk.since };
	drawThread($("talk-thread"), talk.loaded || !talk.text ? talk : { messages: [preview, ...talk.messages] }, users.agent);
	put($("talk-typing"), typingLine([...talk.typing.values()]));
}

async function accept(id) {
	const answer = await ask(desks.agent.of("/chat"), "chat:accept", { conversationId: id });
	const talk = chats.get(id);
	if (!answer || !talk) return;
	fill(talk, answer);
	openTalk(id);
	$("talk-text").focus();
}

function startAgentChat() {
	const at = channel("agent", "/chat");
	const add = (entry) => chats.set(entry.conversationId, chats.get(entry.conversationId) ?? newTalk({ ...entry, since: entry.queuedAt }));
	const drop = (id) => {
		chats.delete(id);
		if (open.kind === "chat" && open.id === id) openTicket(mineId);
	};
	const draw = (talk, isNew) => {
		if (isNew && open.id !== talk.conversationId) talk.unread++;
		drawChats();
		if (open.id === talk.conversationId) drawTalk();
		if (talk.state === "closed") setTimeout(() => (drop(talk.conversationId), drawChats()), 8000);
	};
	at.on("chat:queue", ({ waiting, added, removed }) => {
		if (waiting) for (const talk of [...chats.values()]) if (talk.state === "waiting") chats.delete(talk.conversationId);
		for (const entry of waiting ?? added ?? []) add(entry);
		for (const id of removed ?? []) if (chats.get(id)?.state === "waiting") setTimeout(() => chats.get(id)?.state === "waiting" && (drop(id), drawChats()), 400);
		drawChats();
	});
	at.on("chat:conversation", async ({ conversation }) => {
		const id = conversation.conversationId;
		const talk = chats.get(id) ?? newTalk({ since: conversation.createdAt });
		chats.set(id, Object.assign(talk, conversation));
		await loadTalk(at, talk);
		draw(talk);
	});
	at.on("chat:accepted", ({ conversationId, agent }) => {
		const talk = chats.get(conversationId);
		if (!talk || agent.id !== users.agent.id) return;
		talk.state = "active";
		draw(talk);
	});
	at.on("chat:transferred", ({ conversationId, agent }) => {
		if (agent?.id !== users.agent.id) drop(conversationId);
		drawChats();
	});
	followTalk(at, (id) => chats.get(id), draw);
	const current = () => ({ conversationId: open.id });
	const stopped = typingSender($("talk-text"), (typing) => at.emit(typing ? "chat:typing" : "chat:stopTyping", current(), { volatile: true }));
	onSend($("talk-form"), $("talk-text"), (text) => {
		stopped();
		const talk = chats.get(open.id);
		if (talk) say(at, talk, users.agent, text, () => draw(talk));
	});
	$("talk-accept").addEventListener("click", () => accept(open.id));
	$("talk-close").addEventListener("click", () => ask(at, "chat:close", current()));
	drawChats();
}

function startWidget() {
	const at = channel("customer", "/chat");
	const me = users.customer;
	let talk = null;
	let place = 0;
	const draw = () => {
		const state = talk?.state ?? "none";
		put($("widget-state"), {
			none: "We usually answer within a minute.",
			waiting: place > 1 ? `You are number ${place} in line.` : "You are next in line.",
			active: `You are talking with ${talk?.agent?.name ?? "an agent"}.`,
			closed: "This chat has ended.",
		}[state]);
		put($("widget-send"), state === "none" || state === "closed" ? "Start chat" : "Send");
		$("widget-text").placeholder = state === "none" || state === "closed" ? "Ask anything" : "Write a message";
		if (talk) drawThread($("widget-thread"), talk, me);
		put($("widget-typing"), talk ? typingLine([...talk.typing.values()]) : "");
		$("widget-rate").hidden = state !== "closed" || !talk.agent || talk.score > 0;
	};
	for (const score of [1, 2, 3, 4, 5]) {
		const button = h("button", { type: "button", aria: { label: `${score} of 5` } }, `${score} ★`);
		button.addEventListener("click", async () => {
			if (!(await ask(at, "chat:rate", { conversationId: talk.conversationId, score }))) return;
			talk.score = score;
			remark(talk, `You rated this chat ${score} of 5`);
			draw();
		});
		$("widget-rate").append(button);
	}
	at.on("chat:conversation", async ({ conversation }) => {
		// A new conversation has no id before this, because its events arrive before the answer to chat:start.
		const same = talk && (talk.conversationId ?? conversation.conversationId) === conversation.conversationId;
		if (talk && !same && talk.state !== "closed") return;
		if (!same) talk = newTalk({});
		Object.assign(talk, conversation);
		place = conversation.position ?? 1;
		await loadTalk(at, talk);
		draw();
	});
	at.on("chat:queued", ({ position }) => {
		place = position;
		draw();
	});
	at.on("chat:accepted", ({ conversationId, agent }) => {
		if (talk?.conversationId !== conversationId) return;
		Object.assign(talk, { state: "active", agent });
		remark(talk, `${agent.name} joined`);
		draw();
	});
	followTalk(at, (id) => (talk?.conversationId === id ? talk : null), draw);
	const stopped = typingSender($("widget-text"), (typing) => {
		if (talk?.state === "active") at.emit(typing ? "chat:typing" : "chat:stopTyping", { conversationId: talk.conversationId }, { volatile: true });
	});
	onSend($("widget-form"), $("widget-text"), async (text) => {
		stopped();
		if (talk && talk.state !== "closed") return say(at, talk, me, text, draw);
		const clientId = newId();
		const begun = newTalk({ messages: [{ clientId, author: me, text, at: new Date().toISOString(), unsent: true }] });
		talk = begun;
		$("widget-thread").replaceChildren();
		draw();
		const answer = await ask(at, "chat:start", { clientId, text });
		if (answer) {
			place = answer.position;
			if (talk === begun) begun.conversationId = answer.conversationId;
		} else if (talk === begun) talk = null;
		draw();
	});
	draw();
}

// ── bell ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function startBell() {
	const at = channel("agent", "/notifications");
	let items = [];
	const draw = () => {
		$("bell-none").hidden = items.length > 0;
		keyed($("bell-items"), items, (one) => one.id, (one) => {
			const button = h("button", { type: "button" }, h("span", {}, one.title), h("small", {}, [one.body, clock(one.createdAt)].filter(Boolean).join(" · ")));
			button.addEventListener("click", () => {
				ask(at, "notification:markRead", { id: one.id });
				if (one.data?.ticketId && tickets.has(one.data.ticketId)) openTicket(one.data.ticketId);
				show(false);
			});
			return h("li", {}, button);
		}, (row, one) => (row.firstChild.dataset.read = one.read));
	};
	const show = (shown) => {
		$("bell-list").hidden = !shown;
		$("bell").setAttribute("aria-expanded", shown);
	};
	at.on("connect", async ({ recovered }) => {
		const page = recovered ? null : await ask(at, "notification:list", { limit: 20 });
		if (page) items = page.notifications;
		draw();
	});
	at.on("notification", (one) => {
		items = [one, ...items.filter((old) => old.id !== one.id)].slice(0, 20);
		draw();
	});
	at.on("notification:count", ({ unread }) => {
		if (put($("unread"), unread)) flash($("bell"));
		$("unread").toggleAttribute("data-none", !unread);
	});
	at.on("notification:read", ({ ids }) => {
		for (const one of items) if (ids.includes(one.id)) one.read = true;
		draw();
	});
	$("bell").addEventListener("click", () => show($("bell-list").hidden));
	$("read-all").addEventListener("click", async () => {
		if (!(await ask(at, "notification:markAllRead", {}))) return;
		for (const one of items) one.read = true;
		draw();
	});
	document.addEventListener("keydown", (event) => {
		if (event.key !== "Escape" || $("bell-list").hidden) return;
		show(false);
		$("bell").focus();
	});
	document.addEventListener("click", (event) => event.target.closest(".bell") || show(false));
}

// ── dashboard ──────────────────────────────────────────────────────────────────────────────────────────────────────

function number(id, value) {
	const before = $(id).textContent;
	if (put($(id), value) && before !== "–") flash($(id));
}

function bars(id, order, values) {
	const most = Math.max(1, ...order.map((name) => values[name] ?? 0));
	keyed($(id), order, (name) => name, (name) => h("li", { data: { is: name } }, h("span", {}, word(name)), h("i"), h("span")), (row, name) => {
		const value = values[name] ?? 0;
		row.children[1].style.width = `${(100 * value) / most}%`;
		const before = row.children[2].textContent;
		if (put(row.children[2], value) && before) flash(row.children[2]);
	});
}

const span = (ms) => (ms < 60000 ? `${Math.round(ms / 1000)} s` : `${Math.floor(ms / 60000)} min`);

function startDashboard(people) {
	const at = channel("admin", "/dashboard");
	const updated = (asOf) => {
		$("asof").dateTime = asOf;
		put($("asof"), new Date(asOf).toLocaleTimeString([], { timeStyle: "medium" }));
	};
	at.on("metrics:tickets", (data) => {
		number("n-unsolved", data.unsolved);
		number("n-unassigned", data.unassigned);
		number("n-total", data.total);
		bars("bars-status", STATUSES, data.byStatus);
		bars("bars-priority", [...PRIORITIES].reverse(), data.byPriority);
		updated(data.asOf);
	});
	at.on("metrics:queue", (data) => {
		number("n-waiting", data.waiting);
		number("n-longest", data.waiting ? span(data.longestWaitMs) : "–");
		number("n-active", data.active);
	});
	at.on("metrics:agents", (data) => {
		const order = ["online", "busy", "away", "offline"];
		keyed($("stack-agents"), order, (name) => name, (name) => h("i", { data: { is: name } }), (part, name) => (part.style.flexGrow = data[name]));
		$("stack-agents").setAttribute("aria-label", order.map((name) => `${data[name]} ${name}`).join(", "));
	});

	const statuses = new Map();
	const presence = channel("admin", "/presence");
	const draw = () => keyed($("people"), people, (one) => one.id, (one) => h("li", {}, h("span", { className: "dot", aria: { hidden: true } }), h("span", {}, one.name), h("small")), (row, one) => {
		const status = statuses.get(one.id) ?? "offline";
		row.firstChild.dataset.is = status;
		if (put(row.lastChild, status)) flash(row);
		if (one.id === users.agent.id && status !== "offline") $("agent-status").value = status;
	});
	const learnStatus = ({ userId, status }) => statuses.set(userId, status);
	presence.on("connect", ({ recovered }) => recovered || presence.emit("presence:subscribe", { userIds: people.map((one) => one.id) }));
	presence.on("presence:list", (list) => (list.forEach(learnStatus), draw()));
	presence.on("presence:update", (update) => (learnStatus(update), draw()));
}

const LONGEST_FEED = 40;
/** The feed: every event of the page's connections, newest first. */
function wire(who, path, event, data) {
	const about = data?.ticketId ?? data?.user?.name ?? data?.userId ?? data?.title ?? data?.text ?? data?.message?.text ?? "";
	const line = h("li", {}, h("b", {}, event), ` ${who}`, about ? ` ${String(about).slice(0, 60)}` : "");
	line.title = `${path} ${event}`;
	$("feed").prepend(line);
	if ($("feed").childElementCount > LONGEST_FEED) $("feed").lastElementChild.remove();
}

// ── start ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function start() {
	const first = await load();
	for (const one of first.names) names.set(one.id, one.name);
	for (const who of ["agent", "customer", "admin"]) {
		meet(who, first.people[who]);
		put($(who === "admin" ? "dash-role" : who + "-role"), users[who].title);
		$(who + "-face").dataset.hue = hue(users[who].id);
		put($(who + "-face"), initials(users[who].name));
	}
	put($("agent-name"), users.agent.name);
	put($("customer-name"), users.customer.name);
	put($("dash-role"), `${users.admin.name}, ${users.admin.title}`);
	mineId = first.mine;
	for (const ticket of first.tickets) learn(ticket);
	startAgent(true);
	startCustomer(tickets.get(mineId));
	startAgentChat();
	startWidget();
	startBell();
	startDashboard(first.agents);
	openTicket(mineId);
	linkState();
}

start().catch((error) => {
	$("state").dataset.state = "down";
	put($("state"), `Not started: ${error.message}`);
});
})();
