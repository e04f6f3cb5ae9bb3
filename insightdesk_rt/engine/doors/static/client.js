/**
 * InsightDesk realtime client: one websocket per namespace, JSON frames, no dependency.
 *
 *   const desk = insightdesk.connect("https://help.example.com", { getToken: () => fetchToken() });
 *   const tickets = desk.of("/tickets");
 *   tickets.on("connect", ({ recovered }) => recovered || tickets.emit("ticket:subscribe", { ticketId: "42" }));
 *   tickets.on("ticket:updated", ({ changes }) => show(changes));
 *   const { viewers } = await tickets.call("ticket:view", { ticketId: "42", state: "replying" });
 *
 * A classic script, `import "/rt/client.js"` or require(), where WebSocket is global (Node 22). /rt/client.d.ts has its
 * types and says what each method does.
 */
(() => {
"use strict";
const TEN_S = 10000;
const MAX_QUEUED = 256; // while offline

class DeskError extends Error {
	code;

	constructor({ message = "", ...fields }) {
		super(message || fields.code);
		Object.assign(this, fields);
	}
}

class Channel {
	connected = false;
	recovered = false;
	sid = "";
	_on = new Map();
	_calls = new Map();
	_queue = [];
	_early = [];
	_since = 0;
	_ids = 0;
	_tries = 0;
	_turn = 0;

	constructor(desk, path) {
		this._desk = desk;
		this._url = desk._url + "/rt" + path;
		this.open();
	}

	on(event, fn) {
		this._on.set(event, (this._on.get(event) ?? new Set()).add(fn));
		return this;
	}

	off(event, fn) {
		this._on.get(event)?.delete(fn);
		return this;
	}

	emit(event, data, { volatile = false } = {}) {
		if (this.connected || !volatile) this._put({ text: JSON.stringify({ event, data }) });
		return this;
	}

	/** @returns {Promise<any>} */
	call(event, data, { timeout = TEN_S } = {}) {
		const id = ++this._ids;
		return new Promise((resolve, reject) => {
			const timer = setTimeout(() => {
				this._queue = this._queue.filter((item) => item.id !== id);
				this._settle(id, { code: "TIMEOUT" });
			}, timeout);
			this._calls.set(id, { resolve, reject, timer });
			this._put({ id, text: JSON.stringify({ event, data, id }) });
		});
	}

	open() {
		if (!this._wanted) this._dial();
		this._wanted = true;
		return this;
	}

	close() {
		if (this._wanted) this._cut(1000, true);
	}

	drop() {
		if (this._ws) this._cut(4000, false);
	}

	_cut(code, final) {
		const ws = this._ws;
		this._closed(code, "by this client", final);
		ws?.close(code);
	}

	async _dial() {
		const turn = ++this._turn;
		this._told = false;
		/** @type {any} */
		let failed;
		const token = await this._desk._token(this._refused).catch((error) => void (failed = error));
		if (turn !== this._turn) return;
		if (failed) return this._closed(0, `no token: ${failed.message}`);
		if (this._refused && token === this._refused) return this._closed(4401, "no new token", true);
		this._used = token;
		this._early = [];
		const ws = (this._ws = new WebSocket(this._url));
		const auth = { token, pid: this._pid, offset: this._offset };
		ws.onopen = () => ws.send(JSON.stringify({ event: "connect", data: auth }));
		ws.onmessage = ({ data }) => this._ws === ws && this._receive(JSON.parse(data));
		const closed = ({ code, reason }) => this._ws === ws && this._closed(code, reason);
		ws.onclose = closed;
		ws.onerror = () => closed({ code: 1006, reason: "failed" });
	}

	_receive(frame) {
		const { event, data, ack } = frame;
		if (ack !== undefined) return this._settle(ack, data?.ok === false && data.error, data);
		if (event === "disconnect") return this._cut(1000, true); // sent away: not to come back by itself
		if (event === "connect_error") this._told = true;
		else if (event !== "connect") return this.connected ? this._deliver(frame) : this._early.push(frame);
		else {
			this._refused = undefined;
			this._since = Date.now();
			this._pid = data.pid;
			if (!data.recovered) this._offset = undefined;
			this.sid = data.sid;
			this.recovered = data.recovered;
			this.connected = true;
		}
		this._fire(event, data);
		// what was missed comes before the answer to connect, and is told after it
		while (this.connected && this._early.length) this._deliver(this._early.shift());
		if (this.connected) for (const item of this._queue.splice(0)) this._put(item);
	}

	_deliver({ event, data, offset, id }) {
		if (offset) this._offset = offset;
		if (event === "session:expiring") this._refresh();
		const answer = this._fire(event, data, offset);
		if (id === undefined) return;
		Promise.resolve(answer).then((data = null) => this._ws?.send(JSON.stringify({ ack: id, data })), console.error);
	}

	async _refresh() {
		try {
			const token = await this._desk._token(this._used);
			if (token !== this._used) await this.call("session:refresh", { token });
			this._used = token;
		} catch (error) {
			console.warn(error); // if it stays so, the token's end closes the connection
		}
	}

	_put(item) {
		if (this.connected) {
			if (item.id) this._calls.get(item.id).sent = true;
			this._ws?.send(item.text);
		} else if (this._queue.push(item) > MAX_QUEUED) this._settle(this._queue.shift().id, { code: "OFFLINE" });
	}

	_settle(id, error, data) {
		const call = this._calls.get(id);
		if (!call) return;
		this._calls.delete(id);
		clearTimeout(call.timer);
		error ? call.reject(new DeskError(error)) : call.resolve(data);
	}

	_closed(code, reason, final) {
		const was = this.connected;
		this._ws = null;
		this._turn++;
		this.connected = false;
		clearTimeout(this._timer);
		if (code === 4303) this._pid = undefined; // somebody else resumed this session
		if (code === 4401) this._refused = this._used;
		final ||= code >= 4400 && code < 4500 && !(code === 4401 && this._desk.options.getToken);
		for (const [id, call] of [...this._calls])
			if (call.sent || final) this._settle(id, { code: "DISCONNECTED" }); // it may have been heard
		if (final) {
			this._wanted = false;
			this._queue = [];
		} else {
			// full jitter: the clients of a node that went away come back spread out
			if (was && Date.now() - this._since > TEN_S) this._tries = 0;
			this._timer = setTimeout(() => this._dial(), Math.random() * Math.min(TEN_S, 1000 * 2 ** this._tries++));
		}
		if (!was && !this._told && code !== 1000) this._fire("connect_error", { code: "OFFLINE", message: reason });
		if (was || final) this._fire("disconnect", { code, reason, final });
	}

	_fire(event, data, offset) {
		let answer;
		for (const name of [event, "*"])
			for (const fn of this._on.get(name) ?? []) {
				try {
					answer = fn(data, event, offset) ?? answer;
				} catch (error) {
					console.error(error);
				}
			}
		return answer;
	}
}

class Desk {
	_channels = new Map();

	constructor(url, options) {
		this.options = options;
		this._url = new URL(url, globalThis.location?.href).href.replace(/^http/, "ws").replace(/\/+$/, "");
		this._last = options.token;
	}

	of(path) {
		if (!this._channels.has(path)) this._channels.set(path, new Channel(this, path));
		return this._channels.get(path);
	}

	close() {
		for (const channel of this._channels.values()) channel.close();
	}

	/** A token other than `refused`, asked for once however many channels need it. */
	async _token(refused) {
		const { getToken } = this.options;
		if (!getToken || (this._last && this._last !== refused)) return this._last;
		this._asking ??= (async () => getToken())().finally(() => (this._asking = null));
		return (this._last = await this._asking);
	}
}

/** @param {import("./client").Options} [options] */
const connect = (url = "/", options = {}) => new Desk(url, options);
globalThis.insightdesk = { connect, DeskError };
if (typeof module === "object") module.exports = globalThis.insightdesk;
})();
