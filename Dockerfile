# One image for api, worker, migrate and sandbox; docker-compose.yml sets the command of each container. Pin the base by its
# digest (FROM node:24-slim@sha256:…) where builds must be repeatable.
FROM node:24-slim AS packages
WORKDIR /app
COPY package.json package-lock.json ./
COPY ops/patches ops/patches
RUN npm ci --omit=dev --no-audit --no-fund

FROM node:24-slim
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json ./
COPY src src
COPY drizzle drizzle
COPY ops/commands/migrate.ts ops/commands/sandbox.ts ops/commands/seed.ts ops/commands/verify.ts ops/commands/
COPY ops/dev/command.mjs ops/dev/process-registry.mjs ops/dev/
# A container is reached from outside it; where its port is published decides from which machines.
ENV HOST=0.0.0.0
# tsx caches compiled sources below /tmp, the only place that a container writes to.
USER node
CMD ["node", "--max-semi-space-size=32", "--import=tsx", "src/api/main.ts"]
