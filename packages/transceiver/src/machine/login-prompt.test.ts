import { describe, expect, it } from 'vitest';
import { PromptFinder } from './login-prompt.js';

const finds = (...pieces: readonly string[]): boolean => {
  const finder = new PromptFinder();
  return pieces.map((piece) => finder.finds(Buffer.from(piece, 'latin1'))).includes(true);
};

describe('PromptFinder', () => {
  it.each([
    ['of Debian', ['Debian GNU/Linux 12 debian ttyS0\r\n\r\ndebian login: ']],
    ['without a name', ['FreeBSD/amd64 (ttyu0)\r\n\r\nlogin: ']],
    ['byte by byte', [...'\r\ntiny login: ']],
    ['in bold', ['\r\ndebian \u001b[1mlogin\u001b[0m: ']],
    ['after the screen was cleared', ['[    2.1] clock\u001b[H\u001b[Jdebian login: ']],
    ['with the kernel talking into it', ['debian login: [   15.1] random: crng init done\r\n']],
  ])('finds a prompt %s', (_, pieces) => {
    expect(finds(...pieces)).toBe(true);
  });

  it.each([
    ['the greeting after it', ['Last login: Fri Nov 20\r\n']],
    ['the greeting, long past', [...`Last login: Fri${'x'.repeat(2_000)}`]],
    ['a longer word', [...`user_login: ${'x'.repeat(2_000)}`]],
    ['a message', ['Failed login: root\r\n[  OK  ] Reached target login.target\r\n', 'audit: a new login: root\r\n']],
    ['the end of a line without end', ['x'.repeat(1 << 20), 'login: ']],
  ])('takes %s for none', (_, pieces) => {
    expect(finds(...pieces)).toBe(false);
  });
});
