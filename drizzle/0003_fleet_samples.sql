CREATE TABLE "fleet_samples" (
	"at" timestamp with time zone PRIMARY KEY NOT NULL,
	"per_second" real,
	"wait_p50_ms" integer,
	"wait_p95_ms" integer,
	"queued" integer,
	"oldest_s" real,
	"errors_per_minute" integer,
	"level" text NOT NULL,
	"sentence" text NOT NULL,
	CONSTRAINT "fleet_samples_level_check" CHECK ("fleet_samples"."level" IN ('green', 'amber', 'red'))
);
