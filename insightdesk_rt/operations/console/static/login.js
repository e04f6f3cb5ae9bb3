// The sign-in form: the key goes to the server once, and no script keeps it.
import { api } from "./api.js";

const form = document.getElementById("login");
const input = document.getElementById("credential");
const problem = document.getElementById("problem");
const button = form.querySelector("button");

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
		problem.textContent = said(refused);
		button.disabled = false;
		button.textContent = "Sign in";
		input.select();
	}
});
input.focus();

function said(refused) {
	const texts = {
		AUTH_TOKEN_INVALID: "This key or token is not valid.",
		AUTH_TOKEN_EXPIRED: "This token has expired.",
		RATE_LIMITED: `Too many wrong keys from this address. Try again in ${refused.retryAfter ?? 60} seconds.`,
		BAD_REQUEST: "This is no key and no token.",
	};
	return texts[refused.code] ?? refused.message;
}
