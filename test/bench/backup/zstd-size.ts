/** How many bytes zstd's own program makes of a stream. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';

export const zstdCompressed = (level: number) => {
  const child = spawn('zstd', [`-${String(level)}`, '--single-thread', '-q', '-c'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let bytes = 0;
  child.stdout.on('data', (part: Buffer) => (bytes += part.length));
  const ended = once(child, 'close');
  return {
    add: async (part: Buffer): Promise<void> => {
      if (!child.stdin.write(part)) await once(child.stdin, 'drain');
    },
    end: async (): Promise<number> => {
      child.stdin.end();
      const [code] = (await ended) as [number | null];
      if (code !== 0) throw new Error(`zstd ended with ${String(code)}`);
      return bytes;
    },
  };
};
