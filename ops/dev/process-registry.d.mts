export function anyFreePort(): Promise<number>
/** Returns "pid start-time" of a running process, or undefined if none runs. */
export function identityOf(pid: number): string | undefined
