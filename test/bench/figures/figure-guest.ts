/** A Debian guest of the figures: booted on any block nodes, logged in as root on its serial console, timed command by command, and shut down. */
import { bootGuest, type BlockNode, type BootedGuest, type BootImages } from '../boot/qemu-boot.js';

const STEP_MS = 1_800_000;
const LOGIN_MS = 300_000;
const ROOT_PASSWORD = 'collective'; // of the recipe (images/debian-server/appliance.json, notes)
/** QEMU's trace event when the guest has switched itself off; it stands still then. */
const SWITCHED_OFF = /qemu_system_shutdown_request/;

export class FigureGuest implements AsyncDisposable {
  readonly #guest: BootedGuest;
  #commands = 0;

  private constructor(guest: BootedGuest) {
    this.#guest = guest;
  }

  /** Resolves at the prompt, that of a login by default. */
  static async boot(
    images: BootImages,
    nodes: Readonly<Record<string, BlockNode>>,
    options: { readonly prompt?: RegExp; readonly beforeStart?: () => Promise<void> } = {},
  ): Promise<FigureGuest> {
    return new FigureGuest(await bootGuest(images, nodes, options));
  }

  /** From the start of QEMU to the login prompt. */
  get bootSeconds(): number {
    return this.#guest.seconds;
  }

  /** QEMU's socket of the display. */
  get display(): string {
    return this.#guest.paths.vnc;
  }

  /** A root shell on the serial console. */
  async login(): Promise<void> {
    const { console } = this.#guest;
    console.type('root');
    await console.waitFor(/Password: /, LOGIN_MS);
    console.type(ROOT_PASSWORD);
    await console.waitFor(/# /, LOGIN_MS);
    // No echo, no prompt: what is printed from here on is what commands print.
    console.type("stty -echo; PS1=; bind 'set enable-bracketed-paste off'; echo ready-$((40 + 2))");
    await console.waitFor(/ready-42/, LOGIN_MS);
  }

  /** Runs `script`, which is one line; seconds until it ended and what it printed. Fails when its exit code is not 0. */
  async run(script: string, timeoutMs = STEP_MS): Promise<{ readonly seconds: number; readonly output: string }> {
    const { console } = this.#guest;
    this.#commands += 1;
    const mark = `done-${this.#commands}`;
    const beganMs = performance.now();
    console.type(`( ${script} ) 2>&1; echo "${mark}=$?"`);
    const [all, code = ''] = await console.waitFor(new RegExp(`[^]*${mark}=(\\d+)`), timeoutMs);
    const seconds = (performance.now() - beganMs) / 1000;
    const output = all.slice(0, all.lastIndexOf(mark));
    if (code !== '0') throw new Error(`in the guest, exit code ${code}: ${script}\n${output.slice(-2000)}`);
    return { seconds, output };
  }

  /** Resolves when something of the guest has printed the word on the serial console. */
  async printed(word: string): Promise<void> {
    await this.#guest.console.waitFor(new RegExp(word), STEP_MS);
  }

  /** Switches it off from inside; seconds until QEMU stands still. */
  async shutdown(command = 'systemctl poweroff'): Promise<number> {
    const { console, qemu } = this.#guest;
    const beganMs = performance.now();
    console.type(command);
    await qemu.waitFor(SWITCHED_OFF, LOGIN_MS);
    return (performance.now() - beganMs) / 1000;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#guest.console.close();
    await this.#guest.end();
  }
}
