/**
 * Chunks by digest, whole or in part (Range, one): the hot path, behind the short way that most requests take (chunk-connections.ts). No schema, no logging, no per-request allocation but the reply; whoever knows a public
 * digest may read the chunk. The name says the content, so it never changes under a URL and may be cached for ever (a
 * smaller payload of the same block may replace it; a strong ETag of the digest names the block, which stays).
 */
import { type FastifyInstance } from 'fastify';
import { CollectiveError, isDigest, ROUTES } from '@collective/shared';
import { type RouteContext } from './register-route.js';

const CACHE_CONTROL = 'public, max-age=31536000, immutable';

/** Of every chunk that is sent; beside them its ETag. */
export const CHUNK_HEADERS: Readonly<Record<string, string>> = {
  'cache-control': CACHE_CONTROL,
  'content-type': 'application/octet-stream',
};

const RANGE = /^bytes=([0-9]{1,7})-([0-9]{1,7})$/;

/** What a Range asks for; undefined: all of it, also for a range that is none of this chunk (RFC 9110, 14.2). */
export const partOf = (
  range: string | undefined,
  chunk: Buffer,
): { readonly bytes: Buffer; readonly contentRange: string } | undefined => {
  const [, first, last] = RANGE.exec(range ?? '') ?? [];
  if (first === undefined || last === undefined) return undefined;
  const [from, end] = [Number(first), Math.min(Number(last) + 1, chunk.length)];
  if (from >= end) return undefined;
  return { bytes: chunk.subarray(from, end), contentRange: `bytes ${from}-${end - 1}/${chunk.length}` };
};

export const registerChunkRoute = (app: FastifyInstance, { repository }: RouteContext): void => {
  const { blobStore } = repository;
  app.route<{ Params: { digest: string } }>({
    method: 'GET',
    url: ROUTES.chunk.path,
    bodyLimit: 1,
    handler: (request, reply) => {
      const { digest } = request.params;
      if (!isDigest(digest)) throw new CollectiveError('bad-request', 'A chunk is named by 64 lower-case hex digits');
      const etag = `"${digest}"`;
      const answer = (chunk: Buffer | undefined): void => {
        if (chunk === undefined) {
          reply.send(new CollectiveError('not-found', `There is no chunk ${digest}`));
          return;
        }
        reply.headers({ etag, 'cache-control': CACHE_CONTROL });
        if (request.headers['if-none-match'] === etag) {
          reply.code(304).send();
          return;
        }
        reply.headers(CHUNK_HEADERS);
        const part = partOf(request.headers.range, chunk);
        if (part === undefined) return void reply.send(chunk);
        reply.code(206).header('content-range', part.contentRange).send(part.bytes);
      };
      const found = blobStore.readChunk(digest);
      if (found === undefined || Buffer.isBuffer(found)) answer(found);
      else found.then(answer, (error: unknown) => reply.send(error));
    },
  });
};
