"""An OpenID Connect issuer for tests: the certified oidc-provider of npm, in a process."""
