export { buildApp, type App, type AppOptions } from './app.js';
export { type Clock, systemClock } from './clock.js';
export { DEFAULT_LIMITS, GRACE_SECONDS_DEFAULT, type Limits } from './limits.js';
export { initRepository, type InitOptions, type InitResult } from './repository/init-repository.js';
export { openRepository, type OpenRepository } from './repository/open-repository.js';
export { assembleRepository, type Repository, type RepositoryParts } from './repository/repository.js';
export { startServer, type RunningServer, type ServeOptions } from './server.js';
export { type BlobStore } from './storage/blob-store.js';
export { type Catalogue } from './catalogue/catalogue.js';
