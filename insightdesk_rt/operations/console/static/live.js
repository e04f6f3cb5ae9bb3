// What the API answers, as it changes: one stream of server-sent events for a page. Nothing here asks twice.
//
// It is read by fetch and not by EventSource, which keeps from a page why a stream was refused. A stream that is lost,
// or silent for too long, is tried again, later each time; the shell is told of its state (`onStream`). It is closed
// while the page is hidden: browsers allow few connections to one server, and nobody looks.
import { part, Refused } from "./api.js";

const FIRST_MS = 1000;
const LAST_MS = 15_000;
const LOOK_MS = 500;

/** How long the server may take for its first word, and be silent then: it gives a sign of life every 10 s. */
export const patience = { open_ms: 10_000, silent_ms: 25_000 };

let tell = () => {};

/**
 * `listener({is, since, why})` is told "wait"; "up"; "partly": since then some of what is watched has no answer; "down":
 * the stream is lost since then; "wrong": what was asked for is refused, and will be.
 */
export function onStream(listener) {
	tell = listener;
}

/** Watch paths of the API: {"nodes": (body) => …}. Return a function that ends it. `refused(path, error)` for answers that are none. */
export function live(watched, refused = () => {}) {
	const paths = Object.keys(watched);
	const failing = new Map(); // path → {since, error, is}
	const heard = new Set(); // paths: before all have said something, it is not known that all is well
	return stream("/api/v1/live?watch=" + part(paths.map(part).join(",")), {
		open: () => {
			failing.clear();
			heard.clear();
		},
		state({ watch, status, body }) {
			const error = status === 200 ? null : new Refused({ status, ...body.error });
			if (!error) failing.delete(watch);
			else failing.set(watch, { since: failing.get(watch)?.since ?? Date.now(), why: error.text, is: status < 500 ? "wrong" : "partly" });
			const worst = [...failing.values()].sort((a, b) => (a.is === b.is ? a.since - b.since : a.is === "partly" ? -1 : 1))[0];
			heard.add(watch);
			tell(worst ?? { is: heard.size === paths.length ? "up" : "wait" });
			if (error) refused(watch, error);
			else watched[watch]?.(body);
		},
	});
}

/** Read a stream of events: {name: (data) => …}. Return a function that ends it. `always`: also while nobody looks. */
export function stream(url, on, { always = false } = {}) {
	let ending = null; // what ends the one that is open
	let timer = 0;
	let wait = FIRST_MS;
	let since = 0;
	let heard = 0;
	let begun = false;

	async function open() {
		clearTimeout(timer);
		const mine = (ending = new AbortController());
		begun = false;
		heard = Date.now();
		try {
			const answer = await fetch(url, { credentials: "same-origin", cache: "no-store", headers: { Accept: "text/event-stream" }, signal: mine.signal });
			if (!answer.ok) throw new Refused({ status: answer.status, ...(await answer.json()).error });
			begun = true;
			wait = FIRST_MS;
			since = 0;
			on.open?.();
			if (!on.state) tell({ is: "up" });
			await read(answer.body.pipeThrough(new TextDecoderStream()).getReader(), mine);
		} catch (why) {
			if (mine === ending) lost(why instanceof Refused ? why : new Refused({ code: "UNREACHABLE" }));
		}
	}

	async function read(reader, mine) {
		for (let text = ""; ;) {
			const { value, done } = await reader.read();
			if (done) throw new Refused({ code: "UNREACHABLE" });
			heard = Date.now();
			const blocks = (text + value).split("\n\n");
			text = blocks.pop();
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
			reportError(bug); // of a page; what comes next may be well
		}
	}

	function lost(why) {
		if (!ending) return;
		close();
		if (why.code.startsWith("AUTH") || why.status === 401) return location.reload(); // the sign-in page comes
		if (why.status < 500 && why.status !== 429) return tell({ is: "wrong", why: why.text });
		since ||= Date.now();
		tell({ is: "down", since, why: why.text });
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
		if (ending && Date.now() - heard > (begun ? patience.silent_ms : patience.open_ms)) lost(new Refused({ code: "SILENT" }));
	}, LOOK_MS);
	tell({ is: "wait" });
	if (always || !document.hidden) open();
	document.addEventListener("visibilitychange", looked);
	return () => {
		clearInterval(dog);
		clearTimeout(timer);
		close();
		document.removeEventListener("visibilitychange", looked);
	};
}
