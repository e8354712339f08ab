/**
 * Whether what travels over this machine's link costs its owner: what the person has set, else what the system says (NetworkManager over D-Bus,
 * where there is one). Then only what a guest wants now travels, and the backup.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { readSettings } from './settings-file.js';

const ASK_MS = 2_000;
/** The system's answer is as good for so long. */
const KEPT_MS = 30_000;
const QUESTION = [
  ...['--system', '--timeout=1', 'get-property', 'org.freedesktop.NetworkManager', '/org/freedesktop/NetworkManager'],
  ...['org.freedesktop.NetworkManager', 'Metered'],
];
/** NMMetered: 1 yes, 3 yes as far as can be guessed. */
const METERED = /^u (1|3)\s*$/;

export class MeteredLink {
  readonly #settingsFile: string;
  readonly #askSystem: () => Promise<string>;
  #kept: { readonly isMetered: boolean; readonly atMs: number } | undefined;

  /** `askSystem`: resolves with what `busctl` prints. */
  constructor(settingsFile: string, askSystem: () => Promise<string> = askNetworkManager) {
    this.#settingsFile = settingsFile;
    this.#askSystem = askSystem;
  }

  /** A system that cannot say has no metered link. Errors: `malformed` settings. */
  async isMetered(): Promise<boolean> {
    const { metered } = await readSettings(this.#settingsFile);
    if (metered !== 'auto') return metered === 'on';
    if (this.#kept !== undefined && performance.now() - this.#kept.atMs < KEPT_MS) return this.#kept.isMetered;
    const isMetered = await this.#askSystem().then(
      (said) => METERED.test(said),
      () => false,
    );
    this.#kept = { isMetered, atMs: performance.now() };
    return isMetered;
  }
}

const askNetworkManager = async (): Promise<string> =>
  (await promisify(execFile)('busctl', QUESTION, { timeout: ASK_MS, encoding: 'utf8' })).stdout;
