/**
 * A plain web server for one file, with Range: what the competitors of the boot benchmark read from. A process of its own
 * (`node range-server.js FILE PORT [ADDRESS]`), so that it costs the benchmark's own event loop nothing.
 */
import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';

const [file, port, address = '127.0.0.1'] = process.argv.slice(2);
if (file === undefined || port === undefined) throw new Error('usage: range-server FILE PORT [ADDRESS]');
const { size } = statSync(file);

createServer({ keepAlive: true, noDelay: true }, (request, response) => {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const start = range === null ? 0 : Number(range[1]);
  const end = range === null || range[2] === '' ? size - 1 : Math.min(Number(range[2]), size - 1);
  response.writeHead(range === null ? 200 : 206, {
    'accept-ranges': 'bytes',
    'content-type': 'application/octet-stream',
    'content-length': end - start + 1,
    ...(range === null ? {} : { 'content-range': `bytes ${start}-${end}/${size}` }),
  });
  if (request.method === 'HEAD') response.end();
  else
    createReadStream(file, { start, end, highWaterMark: 256 << 10 })
      .pipe(response)
      .on('error', () => response.destroy());
}).listen(Number(port), address, () => console.log('serving'));
