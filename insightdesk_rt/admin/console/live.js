// What the API answers, as it changes: one stream of server-sent events for a page. Nothing here asks twice.
//
// A stream that is lost is tried again, later each time; the shell is told of its state (`onStream`). It is closed while
// the page is hidden: browsers allow few connections to one server, and nobody looks.
import { part } from "./api.js";

const FIRST_MS = 1000;
const LAST_MS = 15_000;

let tell = () => {};

/** `listener(state, since)` is told "up", "down" or "idle", and since when what is shown has not changed. */
export function onStream(listener) {
	tell = listener;
}

/** Watch paths of the API: {"nodes": (body) => …}. Return a function that ends it. `refused(path, error)` for answers that are none. */
export function live(watched, refused = () => {}) {
	const paths = Object.keys(watched);
	const url = "/api/v1/live?watch=" + part(paths.map(part).join(","));
	return stream(url, {
		state({ watch, status, body }) {
			if (status === 200) watched[watch]?.(body);
			else refused(watch, body.error ?? {});
		},
	});
}

/** Read a stream of events: {name: (data) => …}. Return a function that ends it. `always`: also while nobody looks. */
export function stream(url, on, { always = false } = {}) {
	let source = null;
	let timer = 0;
	let wait = FIRST_MS;
	let since = 0;

	function open() {
		clearTimeout(timer);
		source = new EventSource(url);
		source.addEventListener("open", () => {
			wait = FIRST_MS;
			since = 0;
			on.open?.();
			tell("up");
		});
		for (const [name, listener] of Object.entries(on)) {
			if (name !== "open") source.addEventListener(name, (event) => listener(JSON.parse(event.data)));
		}
		source.addEventListener("end", (event) => lost(JSON.parse(event.data).code));
		source.onerror = () => lost();
	}

	function lost(code = "") {
		if (!source) return;
		close();
		if (code.startsWith("AUTH")) return location.reload();
		since ||= Date.now();
		tell("down", since);
		timer = setTimeout(retry, wait * (0.8 + Math.random() * 0.4));
		wait = Math.min(wait * 2, LAST_MS);
	}

	async function retry() {
		// A stream does not say why it was refused; a call does, and one that says 401 leads to the sign-in page.
		const answer = await fetch("/api/v1/session", { credentials: "same-origin" }).catch(() => null);
		if (answer?.status === 401) return location.reload();
		if (!over) open();
	}

	function close() {
		source?.close();
		source = null;
	}

	function looked() {
		if (always) return;
		if (document.hidden) {
			clearTimeout(timer);
			close();
		} else if (!source) open();
	}

	let over = false;
	tell("wait");
	if (always || !document.hidden) open();
	document.addEventListener("visibilitychange", looked);
	return () => {
		over = true;
		clearTimeout(timer);
		close();
		document.removeEventListener("visibilitychange", looked);
	};
}
