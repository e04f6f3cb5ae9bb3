// @ts-check
// The sign-in form: the key is sent to the server once, and no script stores it.
import { api } from "./api.js";

const form = /** @type {HTMLFormElement} */ (document.getElementById("login"));
const input = /** @type {HTMLInputElement} */ (document.getElementById("credential"));
const problem = /** @type {HTMLElement} */ (document.getElementById("problem"));
const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));

form.addEventListener("submit", async (event) => {
	event.preventDefault();
	const credential = input.value.trim();
	problem.textContent = credential ? "" : "Paste a key or a token.";
	if (!credential) return input.focus();
	button.disabled = true;
	button.textContent = "Signing in…";
	try {
		await api("POST", "session", { credential });
		location.reload();
	} catch (refused) {
		problem.textContent = textOf(refused);
		button.disabled = false;
		button.textContent = "Sign in";
		input.select();
	}
});
input.focus();

function textOf(refused) {
	/** @type {Record<string, string>} */
	const texts = {
		AUTH_TOKEN_INVALID: "This key or token is not valid.",
		AUTH_TOKEN_EXPIRED: "This token has expired.",
		RATE_LIMITED: `Too many wrong keys from this address. Try again in ${refused.retryAfter ?? 60} seconds.`,
		BAD_REQUEST: "This is neither a key nor a token.",
	};
	return texts[refused.code] ?? refused.message;
}
