// @ts-check
// Answers of the API as they change: one stream of server-sent events for each page, instead of polling.
//
// It is read with fetch, because EventSource hides from a page why a stream was refused. A stream that is lost, or
// silent for too long, is opened again, after a growing delay; the shell shows its state (`onStream`). It is closed
// while the page is hidden: browsers allow few connections to one server.
import { part, Refused } from "./api.js";

const FIRST_MS = 1000;
const LAST_MS = 15_000;
const LOOK_MS = 500;

/** How long the server may take for its first byte, and how long it may be silent later: it sends a keep-alive every 10 s. */
export const patience = { open_ms: 10_000, silent_ms: 25_000 };

/** @typedef {{is: string, since?: number, why?: string}} StreamState */

/** @type {(state: StreamState) => void} */
let report = () => {};

/**
 * Call `listener({is, since, why})` for each state of the stream. `is`: "wait": connecting; "up"; "partly": some watched
 * paths have had no answer since then; "down": the stream has been lost since then; "wrong": the request is refused and not repeated.
 * @param {(state: StreamState) => void} listener
 */
export function onStream(listener) {
	report = listener;
}

/**
 * Watch paths of the API. Return a function that ends it. `refused` is called for errors.
 * @param {Record<string, (body: any) => void>} watched
 * @param {(path: string, error: Refused) => void} refused
 */
export function live(watched, refused = () => {}) {
	const paths = Object.keys(watched);
	const failing = new Map(); // path → {since, error, is}
	const answered = new Set(); // the paths that were answered: the state is "up" once all are
	return stream("/api/v1/live?watch=" + part(paths.map(part).join(",")), {
		open: () => {
			failing.clear();
			answered.clear();
		},
		state({ watch, status, body }) {
			const error = status === 200 ? null : new Refused({ status, ...body.error });
			if (!error) failing.delete(watch);
			else failing.set(watch, { since: failing.get(watch)?.since ?? Date.now(), why: error.text, is: status < 500 ? "wrong" : "partly" });
			const worst = [...failing.values()].sort((a, b) => (a.is === b.is ? a.since - b.since : a.is === "partly" ? -1 : 1))[0];
			answered.add(watch);
			report(worst ?? { is: answered.size === paths.length ? "up" : "wait" });
			if (error) refused(watch, error);
			else watched[watch]?.(body);
		},
	});
}

/**
 * Read a stream of events: {name: (data) => …}. Return a function that ends it. `always`: also while the page is hidden.
 * @param {string} url
 * @param {Record<string, (data?: any) => void>} on
 */
export function stream(url, on, { always = false } = {}) {
	/** @type {AbortController | null} */
	let ending = null; // of the open stream
	/** @type {ReturnType<typeof setTimeout> | undefined} */
	let timer;
	let wait = FIRST_MS;
	let since = 0;
	let receivedAt = 0;
	let begun = false;

	async function open() {
		clearTimeout(timer);
		const mine = (ending = new AbortController());
		begun = false;
		receivedAt = Date.now();
		try {
			const answer = await fetch(url, { credentials: "same-origin", cache: "no-store", headers: { Accept: "text/event-stream" }, signal: mine.signal });
			if (!answer.ok) throw new Refused({ status: answer.status, ...(await answer.json()).error });
			begun = true;
			wait = FIRST_MS;
			since = 0;
			on.open?.();
			if (!on.state) report({ is: "up" });
			await read(/** @type {ReadableStream<any>} */ (answer.body).pipeThrough(new TextDecoderStream()).getReader(), mine);
		} catch (why) {
			if (mine === ending) lost(why instanceof Refused ? why : new Refused({ code: "UNREACHABLE" }));
		}
	}

	async function read(reader, mine) {
		for (let text = ""; ;) {
			const { value, done } = await reader.read();
			if (done) throw new Refused({ code: "UNREACHABLE" });
			receivedAt = Date.now();
			const blocks = (text + value).split("\n\n");
			text = blocks.pop() ?? "";
			for (const block of blocks) {
				if (mine !== ending) return;
				take(block);
			}
		}
	}

	function take(block) {
		const [, name, data] = /^event: (.+)\ndata: (.*)$/.exec(block) ?? [];
		if (name === "end") throw new Refused(JSON.parse(data));
		try {
			if (name !== "open") on[name]?.(JSON.parse(data));
		} catch (bug) {
			reportError(bug); // an error of the page; the next event may be fine
		}
	}

	function lost(why) {
		if (!ending) return;
		close();
		if (why.code.startsWith("AUTH") || why.status === 401) return location.reload(); // show the sign-in page
		if (why.status < 500 && why.status !== 429) return report({ is: "wrong", why: why.text });
		since ||= Date.now();
		report({ is: "down", since, why: why.text });
		timer = setTimeout(open, wait * (0.8 + Math.random() * 0.4));
		wait = Math.min(wait * 2, LAST_MS);
	}

	function close() {
		const mine = ending;
		ending = null;
		mine?.abort();
	}

	function looked() {
		if (always) return;
		if (document.hidden) {
			clearTimeout(timer);
			close();
		} else if (!ending) open();
	}

	const dog = setInterval(() => {
		if (ending && Date.now() - receivedAt > (begun ? patience.silent_ms : patience.open_ms)) lost(new Refused({ code: "SILENT" }));
	}, LOOK_MS);
	report({ is: "wait" });
	if (always || !document.hidden) open();
	document.addEventListener("visibilitychange", looked);
	return () => {
		clearInterval(dog);
		clearTimeout(timer);
		close();
		document.removeEventListener("visibilitychange", looked);
	};
}
