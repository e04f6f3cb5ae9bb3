// @ts-check
// The shell command that does what a button does, to be copied into a runbook or a terminal.
import { query } from "./api.js";

/** Return text as one word of a POSIX shell. */
function word(text) {
	return /^[A-Za-z0-9_.:@%+=,/-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`;
}

/**
 * insightdesk-rt with its arguments; {"--flag": value} after them, a flag with true stands alone. What begins with "-"
 * and is no flag is told from one: as --flag=value, or behind "--" at the end.
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

/** The call of the API by curl, for what has no command of its own. */
export function curl(method, path, body) {
	const head = `curl -X ${method} -H "Authorization: Bearer $KEY"`;
	const url = word(`${location.origin}/api/v1/${path}`);
	return body === undefined ? `${head} ${url}` : `${head} -H 'Content-Type: application/json' \\\n  -d ${word(JSON.stringify(body))} ${url}`;
}

/** DELETE takes its reason as a query. */
export const removal = (path, values) => curl("DELETE", path + query(values));
