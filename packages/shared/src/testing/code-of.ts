/** For tests: the code with which an action is refused, or 'value' when it is not. Any other error is thrown on. */
import { CollectiveError, type ErrorCode } from '../errors.js';

export const codeOf = (action: () => unknown): ErrorCode | 'value' => {
  try {
    action();
    return 'value';
  } catch (error) {
    if (error instanceof CollectiveError) return error.code;
    throw error;
  }
};
