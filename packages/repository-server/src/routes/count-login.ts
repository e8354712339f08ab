/** Counts what guesses at an account: by address and account, and by account over all addresses. Errors: `rate-limited`. */
import { type RouteContext } from './register-route.js';

export const countLogin = ({ repository, limiter }: RouteContext, account: string, address: string): void => {
  limiter.count(`login ${address} ${account}`, repository.limits.loginsPerAddressAndAccount);
  limiter.count(`login of ${account}`, repository.limits.loginsPerAccount);
};
