create table users (
    id         uuid        primary key default gen_random_uuid(),
    username   text        not null check (username <> ''),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create index users_lower_username on users (lower(username));

create table user_accounts (
    user_id          uuid not null references users (id) on delete cascade,
    platform         text not null check (platform <> ''),
    platform_user_id text not null check (platform_user_id <> ''),
    username         text not null,
    last_active_at   timestamptz,
    constraint user_accounts_one_per_platform primary key (user_id, platform),
    constraint user_accounts_one_owner unique (platform, platform_user_id)
);

create index user_accounts_lower_username on user_accounts (platform, lower(username));

create index user_accounts_last_active_at on user_accounts (last_active_at desc)
    where last_active_at is not null;

---- create above / drop below ----

drop table user_accounts;

drop table users;
