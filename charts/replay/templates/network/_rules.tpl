{{/* Names can be resolved. */}}
{{- define "replay.egressDNS" -}}
- to:
    - namespaceSelector: {}
      podSelector:
        matchLabels:
          {{- toYaml .Values.networkPolicies.dns.podLabels | nindent 10 }}
    {{- range .Values.networkPolicies.dns.cidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* The internet, and neither private addresses nor the cluster's nor a cloud's metadata. */}}
{{- define "replay.egressInternet" -}}
- to:
    {{- $closed := concat .Values.networkPolicies.privateCIDRs .Values.networkPolicies.clusterCIDRs | uniq }}
    {{- range $family := list "v4" "v6" }}
    - ipBlock:
        cidr: {{ eq $family "v4" | ternary "0.0.0.0/0" "::/0" | quote }}
        except:
          {{- range $cidr := $closed }}
          {{- if eq (contains ":" $cidr) (eq $family "v6") }}
          - {{ $cidr | quote }}
          {{- end }}
          {{- end }}
    {{- end }}
{{- end -}}

{{- define "replay.egressRegistry" -}}
{{- with .Values.networkPolicies.registry }}
{{- if .cidrs }}
- to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
    {{- end }}
  ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}
