export * from './brands.js';
export * from './errors.js';
