/** The object of a boot trace, by HTTP Range (docs/formats/trace.md). Whoever knows its name may read it, as a chunk; under a name it never changes, and whoever asks for one that is gone asks for the chunks. */
import { type FastifyInstance } from 'fastify';
import { CollectiveError, ROUTES } from '@collective/shared';
import { bootObjectName } from '../storage/blob-names.js';
import { admitRoute, checkedParams, type RouteContext } from './register-route.js';
import { rangeOf } from './snapshot-data-route.js';

export const registerBootObjectRoute = (app: FastifyInstance, context: RouteContext): void => {
  const { repository, bodies } = context;
  const route = ROUTES.bootObject;
  const paramsOf = checkedParams('bootObject');
  app.route({
    method: 'GET',
    url: route.path,
    bodyLimit: 1,
    onRequest: async (request, reply) => admitRoute(context, route, request, reply),
    handler: async (request, reply) => {
      const { name, version, disk, object } = paramsOf(request.params);
      const file = await repository.blobStore.open(bootObjectName(name, version, disk, object));
      if (file === undefined)
        throw new CollectiveError('not-found', `The boots of ${name}@${version} are packed otherwise`);
      try {
        const part = rangeOf(request.headers.range, file.byteLength);
        bodies.reserve(reply.raw, part.byteLength);
        const bytes = await file.read(part.byteOffset, part.byteLength);
        const last = part.byteOffset + part.byteLength - 1;
        reply.headers({ 'accept-ranges': 'bytes', 'cache-control': 'public, max-age=31536000, immutable' });
        reply.type('application/octet-stream');
        if (part.byteLength < file.byteLength)
          reply.code(206).header('content-range', `bytes ${part.byteOffset}-${last}/${file.byteLength}`);
        return await reply.send(bytes);
      } finally {
        await file.close();
      }
    },
  });
};
