/**
 * TypeBox in one file (`dist/bundle.js`, made by `npm run bundle`): its 684 modules cost each process half a second of the processor at its
 * start, which is when somebody waits: for a login, a start of a machine, a block daemon that was killed.
 */
export { Type, type Static, type TObject, type TProperties, type TSchema } from 'typebox';
export { Compile, type Validator } from 'typebox/compile';
