/** What getty asks at the start of a line; "Last login: …" is not it. */
export const LOGIN_PROMPT = /(?<!last )\blogin: /i;
