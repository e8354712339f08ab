/**
 * A person at the guest's text screen, recorded and played: types a command, waits until the screen shows it, presses Enter, waits until the screen shows
 * what the recording had. What a command shows depends on nothing but the disk, so that the same pictures come again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Screen } from '../../support/vnc-client.js';
import type { FigureGuest } from './figure-guest.js';

/** Each begins with an empty screen. Programs for the first and for the second time, small ones and large ones, and files. */
export const COMMANDS: readonly string[] = [
  'ls /usr',
  'git --version',
  'wc -l /etc/services',
  "python3 -c 'print(2**64)'",
  "perl -e 'print 6*7, 10 < 9'",
  'gcc --version | head -n 1',
  'echo "int main(void){return 3;}" >/run/a.c; gcc -o /run/a /run/a.c; /run/a; echo $?',
  "sqlite3 :memory: 'select 6*7'",
  'vim --version | head -n 2',
  'git init -q /run/r; git -C /run/r status',
  'python3 -c \'import re, collections; print(re.findall("t.p", "tcp tip"))\'',
  "perl -MPOSIX -e 'print floor(7.5)'",
  'dpkg -s git | head -n 4',
  'grep -c tcp /etc/services',
  'xz --version',
  'g++ --version | head -n 1',
  'diff /etc/passwd /etc/group | wc -l',
  'patch --version | head -n 1',
  'find /usr/include -name "std*.h" | wc -l',
  "python3 -c 'import json; print(json.dumps([1, 2]))' 2>&1 | tail -n 1",
  'cat /etc/os-release | head -n 2',
  'gcc -O2 -o /run/a /run/a.c; /run/a; echo $?',
  'cksum /usr/local/src/zstd.c',
  'ls /usr',
];

/** What the screen showed at each step. */
export type RecordedPictures = readonly { readonly typed: string; readonly done: string }[];

/** A picture is the last one when nothing has changed for so long after the shell was done. */
const SETTLED_MS = 700;
/** What the shell says on the serial console, where nobody looks, when it shows its prompt. */
const PROMPTED = 'prompted';
/** Between a picture and the next command. */
const THINK_MS = 500;
const ANSWER_MS_MAX = 300_000;

/** A shell on the first screen, without a cursor that blinks and without messages of the kernel; resolves with its display. */
export const openScreen = async (guest: FigureGuest): Promise<Screen> => {
  await guest.login();
  await guest.run('dmesg -n 1; systemctl stop getty@tty1; printf "\\033[?25l\\033[2J" >/dev/tty1');
  await guest.run(
    `cd / && (HOME=/root TERM=linux PS1='$ ' HISTFILE= PROMPT_COMMAND='echo ${PROMPTED} | tee /run/prompted >/dev/ttyS0' setsid -c bash --noprofile --norc -i </dev/tty1 >/dev/tty1 2>&1 &)`,
  );
  // What it has said of its first prompt is read with the answer of this.
  await guest.run('until [ -s /run/prompted ]; do sleep 0.1; done; sleep 0.2');
  const screen = await Screen.open(guest.display);
  screen.type('\n');
  await guest.printed(PROMPTED);
  await settled(screen);
  return screen;
};

/** Types all commands on a guest whose disk is local; what the screen shows is what later runs wait for. */
export const recordSession = async (screen: Screen, guest: FigureGuest): Promise<RecordedPictures> => {
  const pictures: { typed: string; done: string }[] = [];
  for (const command of COMMANDS) {
    screen.type(`clear; ${command}`);
    const typed = await settled(screen);
    screen.type('\n');
    await guest.printed(PROMPTED);
    pictures.push({ typed, done: await settled(screen) });
  }
  return pictures;
};

/** Types them again; how long after each Enter the recorded picture was there, in seconds. */
export const playSession = async (screen: Screen, pictures: RecordedPictures): Promise<number[]> => {
  const seconds: number[] = [];
  for (const [at, command] of COMMANDS.entries()) {
    const picture = pictures[at];
    if (picture === undefined) throw new Error(`the recording has no picture of command ${at + 1}`);
    await delay(THINK_MS);
    screen.type(`clear; ${command}`);
    await shows(screen, picture.typed, `the typed command ${at + 1}: ${command}`);
    const beganMs = performance.now();
    screen.type('\n');
    await shows(screen, picture.done, `what command ${at + 1} shows: ${command}`);
    seconds.push((performance.now() - beganMs) / 1000);
  }
  return seconds;
};

const settled = async (screen: Screen): Promise<string> => {
  while ((await screen.change(SETTLED_MS)) === 'changed');
  return screen.digest();
};

const shows = async (screen: Screen, digest: string, step: string): Promise<void> => {
  const giveUpAt = performance.now() + ANSWER_MS_MAX;
  while (screen.digest() !== digest) {
    if (performance.now() > giveUpAt) throw new Error(`${step}: not on the screen within ${ANSWER_MS_MAX} ms`);
    await screen.change(1_000);
  }
};
