// @ts-check
// The shell command that does what a button does, to be copied into a runbook or a terminal.
import { query } from "./api.js";

/** Return text as one word of a POSIX shell. */
function word(text) {
	return /^[A-Za-z0-9_.:@%+=,/-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`;
}

/**
 * Return an insightdesk-rt command. Arguments come first, then {"--flag": value}; a flag with true has no value. A value
 * that begins with "-" is written so that it is not taken for a flag: as --flag=value, or after "--" at the end.
 */
export function tool(command, ...words) {
	const flags = typeof words.at(-1) === "object" ? words.pop() : {};
	const dashed = words.some((one) => one.startsWith("-"));
	const all = ["insightdesk-rt", command, ...(dashed ? [] : words.map(word))];
	for (const [flag, value] of Object.entries(flags)) {
		if (value === true) all.push(flag);
		else if (String(value ?? "").startsWith("-")) all.push(`${flag}=${word(value)}`);
		else if (value !== "" && value !== undefined && value !== null && value !== false) all.push(flag, word(value));
	}
	return [...all, ...(dashed ? ["--", ...words.map(word)] : [])].join(" ");
}

/** Return the API call as a curl command, for actions without a command of their own. */
export function curl(method, path, body) {
	const head = `curl -X ${method} -H "Authorization: Bearer $KEY"`;
	const url = word(`${location.origin}/api/v1/${path}`);
	return body === undefined ? `${head} ${url}` : `${head} -H 'Content-Type: application/json' \\\n  -d ${word(JSON.stringify(body))} ${url}`;
}

/** Return a DELETE as a curl command; the reason is in its query. */
export const removal = (path, values) => curl("DELETE", path + query(values));
