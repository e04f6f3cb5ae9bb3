// @ts-check
// Calls of the admin API. Every request carries the header that tells the server it comes from a page of the console.

// Texts for people, where the server gave none or one for programs.
/** @type {Record<string, string>} */
const TEXTS = {
	UNREACHABLE: "The server cannot be reached.",
	SILENT: "The server does not answer.",
	INTERNAL: "The server failed; its log says why.",
};

export class Refused extends Error {
	/** @type {string} for programs */
	code = "";
	/** @type {string | undefined} the wrong field of the request; `text` names it, too */
	field;
	/** @type {number | undefined} of the HTTP answer */
	status;
	/** @type {number | undefined} seconds */
	retryAfter;

	/** @param {{code?: string, message?: string, field?: string, status?: number, retryAfter?: number}} error */
	constructor({ code = "INTERNAL", message = TEXTS[code], ...fields } = {}) {
		// Without Valkey the server's text is for programs: how to repeat the request.
		super(code === "UNAVAILABLE" && !/stream/.test(message ?? "") ? "Valkey does not answer." : (message ?? code));
		Object.assign(this, { code, ...fields });
	}

	get text() {
		return this.field ? `${this.message} (${this.field})` : this.message;
	}
}

/**
 * Return the answer's JSON. `path` is the part after /api/v1/. Throws Refused, also if there is no answer.
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<any>}
 */
export async function api(method, path, body) {
	/** @type {RequestInit & {headers: Record<string, string>}} */
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
	const found = await answer.json().catch(() => ({}));
	if (answer.ok) return found;
	if (answer.status === 401 && path !== "session") location.reload(); // the session is over: show the sign-in page
	throw new Refused(found.error);
}

/** Return the values that are not empty as "?a=1&b=2", or "". */
export function query(values) {
	const given = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined && value !== null);
	return given.length ? "?" + given.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&") : "";
}

/** Encode a part of a path. */
export const part = encodeURIComponent;
