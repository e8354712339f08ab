/**
 * A process of the storm's links: `links-main.js COUNT TO-PORT SLOWER DOWN-KBIT UP-KBIT RTT-MS`. Each of them is shared/tools/link.mjs as it is, one
 * instance of the module a link, on a clock that goes `SLOWER` times slower: to link.mjs its rate, its delay and its buffers are those of the line that
 * it stands for, and on the machine's clock all of them are stretched alike. It sends its ports when all listen.
 */
import { pathToFileURL } from 'node:url';
import { freePort } from '../../support/link.js';
import { LINK } from '../../support/paths.js';

const [count = 0, toPort = 0, slower = 1, downKbit = 0, upKbit = 0, roundTripMs = 0] = process.argv
  .slice(2)
  .map(Number);

const now = performance.now.bind(performance);
const setTimer = globalThis.setTimeout;
Object.defineProperty(performance, 'now', { value: () => now() / slower });
Object.defineProperty(globalThis, 'setTimeout', {
  value: (action: () => void, afterMs: number) => setTimer(action, afterMs * slower),
});
process.setMaxListeners(0); // a few signals a link

/** link.mjs takes its options from the command line, and says on standard error that it listens. */
const openLink = async (index: number): Promise<number> => {
  const port = await freePort();
  const isUp = new Promise((resolve) => {
    console.error = resolve;
  });
  process.argv.splice(2, Infinity, '--listen', `127.0.0.1:${port}`, '--to', `127.0.0.1:${toPort}`);
  process.argv.push('--down', `${downKbit}kbit`, '--up', `${upKbit}kbit`, '--rtt', `${roundTripMs}ms`);
  await import(`${pathToFileURL(LINK).href}?link=${index}`);
  await isUp;
  return port;
};

const ports: number[] = [];
for (let index = 0; index < count; index += 1) ports.push(await openLink(index));
process.on('disconnect', () => process.exit(0));
process.send?.(ports);
