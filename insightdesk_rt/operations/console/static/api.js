// Calls of the admin API. Every change carries the header by which the server knows that a page of ours sends it.

// What is said for programs, or by nobody, in words for who looks at a page.
const TEXTS = {
	UNREACHABLE: "The server cannot be reached.",
	SILENT: "The server says nothing.",
	INTERNAL: "The server failed; its log says how.",
};

export class Refused extends Error {
	/** `code` is for programs, `message` for people, `field` is what was wrong in the request; `text` names it too. */
	constructor({ code = "INTERNAL", message = TEXTS[code], ...fields } = {}) {
		// Without Valkey the server tells programs how to repeat what they sent.
		super(code === "UNAVAILABLE" && !/stream/.test(message) ? "Valkey does not answer." : (message ?? code));
		Object.assign(this, { code, ...fields });
	}

	get text() {
		return this.field ? `${this.message} (${this.field})` : this.message;
	}
}

/** Return the answer's JSON. `path` is behind /api/v1/. Throws Refused, also when nobody answers. */
export async function api(method, path, body) {
	const options = { method, headers: { "X-Requested-With": "console" }, credentials: "same-origin" };
	if (body !== undefined) {
		options.headers["Content-Type"] = "application/json";
		options.body = JSON.stringify(body);
	}
	let answer;
	try {
		answer = await fetch(`/api/v1/${path}`, options);
	} catch {
		throw new Refused({ code: "UNREACHABLE" });
	}
	const said = await answer.json().catch(() => ({}));
	if (answer.ok) return said;
	if (answer.status === 401 && path !== "session") location.reload(); // the session is over: the sign-in page comes
	throw new Refused(said.error);
}

/** Return "?a=1&b=2" of what is not empty, or "". */
export function query(values) {
	const given = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined && value !== null);
	return given.length ? "?" + given.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&") : "";
}

/** Return a part of a path. */
export const part = encodeURIComponent;
